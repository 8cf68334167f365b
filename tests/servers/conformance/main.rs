//! An MCP server on the official Rust SDK with everything that the conformance suite wants of a server: its tools,
//! resources and prompts, in either era or both.
//!
//! `conformance-server [both|legacy|modern|raw] [--stdio]`: over streamable HTTP its address is the first line of its
//! output. Every tool works in both eras: what it needs of the client it asks for on the call's stream (legacy) or
//! by answering that input is required (modern).
//!
//! # Layout
//! - [`server`]: the server itself; `catalogue.json`: what it lists
//! - [`answers`]: contents that stay the same; [`rounds`]: tools that need something of the client; [`jobs`]: tasks
//! - [`raw`]: the same for legacy clients, without the SDK
//! - [`stages`]: what is remembered between two rounds

#![allow(
    deprecated,
    reason = "sampling, roots and logging are deprecated, and clients of all revisions use them"
)]

mod answers;
mod jobs;
mod raw;
mod rounds;
mod server;
mod stages;

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use rmcp::ServiceExt;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;

use self::server::Fixture;

/// The eras that the fixture speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eras {
    Both,
    Legacy,
    Modern,
}

#[tokio::main]
async fn main() -> Result<()> {
    let (mut eras, mut is_stdio, mut is_raw) = (Eras::Both, false, false);
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "both" => eras = Eras::Both,
            "legacy" => eras = Eras::Legacy,
            "modern" => eras = Eras::Modern,
            "raw" => (eras, is_raw) = (Eras::Modern, true),
            "--stdio" => is_stdio = true,
            other => {
                bail!(
                    "unknown argument {other:?}: usage: conformance-server [both|legacy|modern|raw] [--stdio]"
                )
            }
        }
    }
    if is_stdio {
        let serving = Fixture::new(eras).serve(rmcp::transport::stdio()).await?;
        serving.waiting().await?;
        return Ok(());
    }
    let (listener, url) = listen().await?;
    if !is_raw {
        println!("{url}");
        return serve_http(eras, listener).await;
    }
    let (in_front, url_in_front) = listen().await?;
    println!("{url_in_front}");
    let router = raw::router(url).layer(from_fn(know_no_modern_revision));
    let (fixture, raw) = tokio::join!(serve_http(eras, listener), async {
        axum::serve(in_front, router).await
    });
    fixture?;
    Ok(raw?)
}

/// A free port, and the address of a server that listens there.
async fn listen() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port")?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    Ok((listener, url))
}

async fn serve_http(eras: Eras, listener: TcpListener) -> Result<()> {
    let fixture = Fixture::new(eras);
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(eras != Eras::Modern)
        .with_allowed_origins(["http://localhost:*", "http://127.0.0.1:*"]);
    let service = StreamableHttpService::new(
        move || Ok(fixture.clone()),
        Arc::new(LocalSessionManager::default()),
        config,
    );
    let mut router = Router::new().nest_service("/mcp", service);
    if eras == Eras::Legacy {
        router = router.layer(from_fn(know_no_modern_revision));
    }
    axum::serve(listener, router).await?;
    Ok(())
}

/// Servers that were written before 2026-07-28 refuse its requests by their version, in words of their own.
async fn know_no_modern_revision(request: Request, next: Next) -> Response {
    let version = request.headers().get("mcp-protocol-version");
    if version.is_some_and(|version| version == "2026-07-28") {
        let refusal = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: Unsupported protocol version"}}"#;
        return (
            StatusCode::BAD_REQUEST,
            [("content-type", "application/json")],
            refusal,
        )
            .into_response();
    }
    next.run(request).await
}
