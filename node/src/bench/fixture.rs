//! An MCP server with one tool that answers at once: what remains of a call's cost is that of getting there.

use std::process::ExitCode;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::post,
};
use clap::{Args, ValueEnum};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use troupe_protocol::{
    jsonrpc::{Kind, Message, edit},
    mcp::{ProtocolVersion, header, method},
};

use crate::cli::error::CliError;

/// The tool's name.
pub const TOOL: &str = "fast";
const SESSION: &str = "bench";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wire {
    Stdio,
    Http,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Era {
    Legacy,
    Modern,
}

#[derive(Debug, Args)]
pub struct FixtureArgs {
    #[arg(long)]
    wire: Wire,
    #[arg(long)]
    era: Era,
}

/// Serves until its input ends (stdio) or it is killed (HTTP; the address is its first line).
pub async fn run(args: &FixtureArgs) -> Result<ExitCode, CliError> {
    let failed = |error: std::io::Error| CliError::Failed(format!("fixture: {error}"));
    match args.wire {
        Wire::Stdio => serve_stdio(args.era).await.map_err(failed)?,
        Wire::Http => serve_http(args.era).await.map_err(failed)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve_stdio(era: Era) -> std::io::Result<()> {
    let mut lines = BufReader::with_capacity(64 * 1024, tokio::io::stdin());
    let mut stdout = tokio::io::stdout();
    let (mut line, mut answers) = (Vec::new(), String::new());
    loop {
        line.clear();
        if lines.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        if let Some(answer) = answer(era, &line) {
            answers.push_str(&answer);
            answers.push('\n');
        }
        // What came in together goes out together.
        if !lines.buffer().contains(&b'\n') {
            stdout.write_all(answers.as_bytes()).await?;
            stdout.flush().await?;
            answers.clear();
        }
    }
}

async fn serve_http(era: Era) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}/mcp", listener.local_addr()?);
    let app = Router::new().route("/mcp", post(answer_http)).with_state(era);
    axum::serve(
        axum::serve::ListenerExt::tap_io(listener, |stream| {
            let _ = stream.set_nodelay(true);
        }),
        app,
    )
    .await
}

async fn answer_http(State(era): State<Era>, _: HeaderMap, body: Bytes) -> Response {
    match answer(era, &body) {
        None => StatusCode::ACCEPTED.into_response(),
        Some(answer) => {
            let mut response = ([(CONTENT_TYPE, "application/json")], answer).into_response();
            if era == Era::Legacy {
                response
                    .headers_mut()
                    .insert(header::SESSION_ID, axum::http::HeaderValue::from_static(SESSION));
            }
            response
        }
    }
}

fn answer(era: Era, bytes: &[u8]) -> Option<String> {
    let message = Message::parse(bytes)
        .ok()
        .filter(|message| message.kind == Kind::Request)?;
    let id = message.id.map_or("null", |id| id.get());
    let result_type = if era == Era::Modern {
        r#""resultType":"complete","#
    } else {
        ""
    };
    let result = match (message.method(), era) {
        (method::TOOLS_CALL, _) => {
            // The process tells who it is, so that its CPU time can be found.
            format!(
                r#"{{{result_type}"content":[{{"type":"text","text":"{}"}}]}}"#,
                std::process::id()
            )
        }
        (method::TOOLS_LIST, _) => {
            format!(r#"{{{result_type}"tools":[{{"name":"{TOOL}","inputSchema":{{"type":"object"}}}}]}}"#)
        }
        (method::DISCOVER, Era::Modern) => format!(
            r#"{{{result_type}"supportedVersions":["{}"],"capabilities":{{"tools":{{}}}}}}"#,
            ProtocolVersion::LATEST_MODERN
        ),
        (method::INITIALIZE, Era::Legacy) => format!(
            r#"{{"protocolVersion":"{}","capabilities":{{"tools":{{}}}},"serverInfo":{{"name":"bench","version":"1"}}}}"#,
            ProtocolVersion::LATEST_LEGACY
        ),
        _ => return Some(edit::error_response(message.id, -32601, "method not found", None)),
    };
    Some(edit::response(id, "result", &result))
}
