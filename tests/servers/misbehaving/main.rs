//! An MCP server (legacy era) that does to its clients what servers do on their worst days. It starts in milliseconds.
//!
//! `misbehaving-server stdio`, or `misbehaving-server PORT` for streamable HTTP on the loopback address.
//!
//! Tools: `echo` (`text`) and `whoami` (the process id) do what they should. `hang` never answers; `garbage` sends what is
//! no message; `half` sends half a message and closes; `large` (`bytes`) answers a text of that size; `flood` (`count`)
//! sends so many notifications before it answers; `vanish` ends the process. Over HTTP alone: `cut` closes its event stream
//! before the answer, `endless` never ends its event, `chunked` is `large` without saying how large.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// What large texts are written in.
const PIECE_BYTES: usize = 64 * 1024;

fn main() {
    let way = std::env::args()
        .nth(1)
        .expect("usage: misbehaving-server stdio|PORT");
    match way.parse::<u16>() {
        Ok(port) => serve_http(port),
        Err(_) => serve_stdio(),
    }
}

fn serve_stdio() {
    let output = Arc::new(Mutex::new(io::stdout()));
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if message["id"].is_null() || message["method"].is_null() {
            continue; // a notice
        }
        let output = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut output = output.lock().expect("no writer panics");
            // whoever asked may be gone
            let _ = answer_line(&message, &mut *output).and_then(|()| output.flush());
        });
    }
}

fn answer_line(message: &Value, output: &mut impl Write) -> io::Result<()> {
    match tool_of(message) {
        "hang" => Ok(()),
        "garbage" => {
            output.write_all(b"\xff\xfe{\"jsonrpc\": nonsense\n{}\n[1,2\n\"\n\n")?;
            writeln!(output, "{}", answer(message))
        }
        "half" => {
            let whole = answer(message).to_string();
            output.write_all(&whole.as_bytes()[..whole.len() / 2])?;
            output.flush()?;
            std::process::exit(0)
        }
        "large" => {
            let (before, after) = around(message);
            output.write_all(before.as_bytes())?;
            write_text(output, number(message, "bytes"))?;
            writeln!(output, "{after}")
        }
        "flood" => {
            for number in 0..number(message, "count") {
                writeln!(output, "{}", notification(number))?;
            }
            writeln!(output, "{}", answer(message))
        }
        "vanish" => std::process::exit(1),
        _ => writeln!(output, "{}", answer(message)),
    }
}

fn serve_http(port: u16) {
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let _ = stream.set_nodelay(true);
            let mut stream = BufReader::new(stream);
            while let Some((is_post, body)) = request(&mut stream) {
                // whoever asked may be gone
                if respond(is_post, &body, stream.get_mut()).is_err() {
                    return;
                }
            }
        });
    }
}

/// The next request: whether it is a POST, and its body. Nothing when the connection ended.
fn request(stream: &mut BufReader<TcpStream>) -> Option<(bool, Vec<u8>)> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        let header = line.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if first.is_empty() {
            first = header;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some((first.starts_with("post"), body))
}

/// An error ends the connection.
fn respond(is_post: bool, body: &[u8], stream: &mut TcpStream) -> io::Result<()> {
    let message: Value = serde_json::from_slice(body).unwrap_or_default();
    if !is_post {
        return whole(stream, "405 Method Not Allowed", "");
    }
    if message["id"].is_null() {
        return whole(stream, "202 Accepted", "");
    }
    let closes = || Err(io::ErrorKind::ConnectionAborted.into());
    match tool_of(&message) {
        "hang" => loop {
            std::thread::park();
        },
        "garbage" => whole(stream, "200 OK", "{\"jsonrpc\": nonsense"),
        "half" => {
            let answer = answer(&message).to_string();
            let half = &answer[..answer.len() / 2];
            write!(stream, "{}{half}", head("200 OK", answer.len()))?;
            closes()
        }
        "large" => {
            let (before, after) = around(&message);
            let bytes = number(&message, "bytes");
            let length = before.len() + bytes + after.len();
            write!(stream, "{}{before}", head("200 OK", length))?;
            write_text(stream, bytes)?;
            stream.write_all(after.as_bytes())
        }
        "chunked" => {
            let (before, after) = around(&message);
            stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
            )?;
            chunk(stream, before.as_bytes())?;
            let piece = [b'x'; PIECE_BYTES];
            for _ in 0..number(&message, "bytes") / PIECE_BYTES {
                chunk(stream, &piece)?;
            }
            chunk(stream, after.as_bytes())?;
            stream.write_all(b"0\r\n\r\n")
        }
        "flood" => {
            open_stream(stream)?;
            for number in 0..number(&message, "count") {
                event(stream, &notification(number))?;
            }
            event(stream, &answer(&message))?;
            closes()
        }
        "cut" => {
            open_stream(stream)?;
            event(stream, &notification(0))?;
            closes()
        }
        "endless" => {
            open_stream(stream)?;
            stream.write_all(b"data: ")?;
            loop {
                write_text(stream, PIECE_BYTES)?;
            }
        }
        "vanish" => std::process::exit(1),
        _ => whole(stream, "200 OK", &answer(&message).to_string()),
    }
}

fn head(status: &str, length: usize) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n")
}

fn whole(stream: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let text = format!("{}{body}", head(status, body.len()));
    stream.write_all(text.as_bytes())
}

fn open_stream(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
}

fn event(stream: &mut TcpStream, message: &Value) -> io::Result<()> {
    stream.write_all(format!("data: {message}\n\n").as_bytes())
}

fn chunk(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    write!(stream, "{:x}\r\n", bytes.len())?;
    stream.write_all(bytes)?;
    stream.write_all(b"\r\n")
}

fn write_text(output: &mut impl Write, bytes: usize) -> io::Result<()> {
    let piece = [b'x'; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let now = left.min(PIECE_BYTES);
        output.write_all(&piece[..now])?;
        left -= now;
    }
    Ok(())
}

fn tool_of(message: &Value) -> &str {
    match message["method"].as_str() {
        Some("tools/call") => message["params"]["name"].as_str().unwrap_or_default(),
        _ => "",
    }
}

fn number(message: &Value, argument: &str) -> usize {
    let given = message["params"]["arguments"][argument].as_u64();
    usize::try_from(given.unwrap_or_default()).expect("a number that fits")
}

fn notification(number: usize) -> Value {
    let data = format!("notification {number} {}", "n".repeat(200));
    json!({ "jsonrpc": "2.0", "method": "notifications/message", "params": { "level": "info", "data": data } })
}

/// What stands before and after the text of an answer.
fn around(message: &Value) -> (String, String) {
    let marked = reply(message, json!({ "content": [{ "type": "text", "text": "%" }] })).to_string();
    let (before, after) = marked.split_once('%').expect("the mark");
    (before.to_owned(), after.to_owned())
}

fn answer(message: &Value) -> Value {
    let arguments = &message["params"]["arguments"];
    let result = match message["method"].as_str().unwrap_or_default() {
        "initialize" => json!({
            "protocolVersion": "2025-11-25",
            "capabilities": { "tools": {}, "logging": {} },
            "serverInfo": { "name": "misbehaving", "version": "1" },
        }),
        "ping" => json!({}),
        "tools/list" => json!({ "tools": tools() }),
        "tools/call" => {
            let said = match tool_of(message) {
                "echo" => arguments["text"].as_str().unwrap_or_default().to_owned(),
                "whoami" => std::process::id().to_string(),
                _ => "done".to_owned(),
            };
            json!({ "content": [{ "type": "text", "text": said }] })
        }
        _ => {
            let error = json!({ "code": -32601, "message": "method not found" });
            return json!({ "jsonrpc": "2.0", "id": message["id"], "error": error });
        }
    };
    reply(message, result)
}

fn reply(message: &Value, result: Value) -> Value {
    json!({ "jsonrpc": "2.0", "id": message["id"], "result": result })
}

fn tools() -> Vec<Value> {
    let names = [
        "echo", "whoami", "hang", "garbage", "half", "large", "chunked", "flood", "cut", "endless", "vanish",
    ];
    let tool =
        |name: &&str| json!({ "name": name, "description": name, "inputSchema": { "type": "object" } });
    names.iter().map(tool).collect()
}
