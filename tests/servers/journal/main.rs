//! An MCP server on stdio (legacy era) that keeps a journal of its own life, so that tests can tell which process
//! served what and whether two of them ever lived at once. It starts in milliseconds.
//!
//! `journal-server FILE NAME`: every line in FILE is `MICROSECONDS PID EVENT TEXT`, on the machine's clock; events are
//! `start`, `alive` (every 20 ms), `call`, `stop` (its input ended). It is appended to by all processes of that server.
//!
//! Tools: `whoami` says the process id; `note` (`text`) writes the text into the journal, then answers it; `wait`
//! (`ms`) answers after so long.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

const ALIVE_EVERY: Duration = Duration::from_millis(20);

#[derive(Clone)]
struct Journal {
    file: Arc<File>,
}

impl Journal {
    fn open(path: &str) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Self {
            file: Arc::new(file.expect("the journal opens")),
        }
    }

    /// One write, so that lines of several processes do not mix.
    fn write(&self, event: &str, text: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now_us = now.expect("the clock is past 1970").as_micros();
        let line = format!("{now_us} {} {event} {text}\n", std::process::id());
        let _ = self.file.as_ref().write_all(line.as_bytes());
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().expect("usage: journal-server FILE NAME");
    let journal = Journal::open(&path);
    journal.write("start", &arguments.next().unwrap_or_default());
    let sign = journal.clone();
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(ALIVE_EVERY);
            sign.write("alive", "");
        }
    });
    let output = Arc::new(Mutex::new(std::io::stdout()));
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if message["id"].is_null() || message["method"].is_null() {
            continue; // a notice
        }
        let (journal, output) = (journal.clone(), Arc::clone(&output));
        if message["params"]["name"] == "wait" {
            std::thread::spawn(move || answer(&message, &journal, &output));
        } else {
            answer(&message, &journal, &output);
        }
    }
    journal.write("stop", "");
}

fn answer(message: &Value, journal: &Journal, output: &Mutex<std::io::Stdout>) {
    let answered = match result(message, journal) {
        Some(result) => json!({ "jsonrpc": "2.0", "id": message["id"], "result": result }),
        None => {
            let error = json!({ "code": -32601, "message": "method not found" });
            json!({ "jsonrpc": "2.0", "id": message["id"], "error": error })
        }
    };
    let mut output = output.lock().expect("no writer panics");
    // whoever asked may be gone
    let _ = writeln!(output, "{answered}").and_then(|()| output.flush());
}

fn result(message: &Value, journal: &Journal) -> Option<Value> {
    let params = &message["params"];
    match message["method"].as_str()? {
        "initialize" => Some(json!({
            "protocolVersion": "2025-11-25",
            "capabilities": { "tools": {} },
            "serverInfo": { "name": "journal", "version": "1" },
        })),
        "ping" => Some(json!({})),
        "tools/list" => Some(json!({ "tools": [
            tool("whoami", "The process that answers", &json!({})),
            tool("note", "Writes a line into the journal", &json!({ "text": { "type": "string" } })),
            tool("wait", "Answers after a while", &json!({ "ms": { "type": "integer" } })),
        ] })),
        "tools/call" => Some(call(params, journal)),
        _ => None,
    }
}

fn tool(name: &str, description: &str, properties: &Value) -> Value {
    let schema = json!({ "type": "object", "properties": properties });
    json!({ "name": name, "description": description, "inputSchema": schema })
}

fn call(params: &Value, journal: &Journal) -> Value {
    let arguments = &params["arguments"];
    let said = match params["name"].as_str() {
        Some("note") => {
            let text = arguments["text"].as_str().unwrap_or_default();
            journal.write("call", text);
            text.to_owned()
        }
        Some("wait") => {
            let ms = arguments["ms"].as_u64().unwrap_or_default();
            std::thread::sleep(Duration::from_millis(ms));
            ms.to_string()
        }
        _ => std::process::id().to_string(),
    };
    json!({ "content": [{ "type": "text", "text": said }] })
}
