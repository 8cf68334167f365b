//! `troupe tool …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use troupe_protocol::{
    api::{CallToolResponse, Page},
    routing::ToolMatch,
};

use super::{
    client::Client,
    error::CliError,
    output::{Output, Table, shortened},
};

const DESCRIPTION_CHARS_MAX: usize = 80;

#[derive(Debug, Subcommand)]
pub enum ToolCommand {
    /// List the tools of all servers that are up.
    List {
        /// Words that must occur.
        search: Option<String>,
        /// Only this server's.
        #[arg(long)]
        server: Option<String>,
        /// Most tools to list.
        #[arg(long, default_value_t = 200)]
        limit: u32,
    },
    /// Find tools by what they should do.
    Find {
        /// In words.
        query: String,
        /// Most tools to find.
        #[arg(long, default_value_t = 5)]
        limit: u32,
    },
    /// Call a tool: `call SERVER TOOL '{"argument": 1}'`, or `call SERVER__TOOL argument=1 …`.
    Call {
        /// The server, or `SERVER__TOOL`.
        server: String,
        /// The tool (unless given with the server), and its arguments as one JSON object or as NAME=VALUE pairs.
        rest: Vec<String>,
    },
}

pub async fn run(client: &Client, command: ToolCommand, output: Output) -> Result<ExitCode, CliError> {
    match command {
        ToolCommand::List {
            search,
            server,
            limit,
        } => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(search.map(|search| ("search", search)));
            query.extend(server.map(|server| ("server", server)));
            let page = client.get(&["tools"], &query).await?;
            output.show(page, |page: Page<Value>| list_in_words(&page))?;
        }
        ToolCommand::Find { query, limit } => {
            let query = [("q", query), ("limit", limit.to_string())];
            let found = client.get(&["tools", "search"], &query).await?;
            output.show(found, |found: Page<ToolMatch>| found_in_words(&found.items))?;
        }
        ToolCommand::Call { server, rest } => return call(client, &server, &rest, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

fn list_in_words(page: &Page<Value>) -> String {
    let mut table = Table::new(&["server", "tool", "description"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for tool in &page.items {
        let description = shortened(
            tool["description"].as_str().unwrap_or_default(),
            DESCRIPTION_CHARS_MAX,
        );
        let name = if tool["tool"].is_string() {
            &tool["tool"]
        } else {
            &tool["name"]
        };
        table.row([text(&tool["server"]), text(name), description]);
    }
    table.or("no tools")
}

fn found_in_words(found: &[ToolMatch]) -> String {
    let mut table = Table::new(&["score", "server", "tool", "description"]);
    for tool in found {
        table.row([
            format!("{:.2}", tool.score),
            tool.server.clone(),
            tool.tool.clone(),
            shortened(&tool.description, DESCRIPTION_CHARS_MAX),
        ]);
    }
    table.or("no tool fits")
}

async fn call(client: &Client, server: &str, rest: &[String], output: Output) -> Result<ExitCode, CliError> {
    let (server, tool, arguments) = match (server.split_once("__"), rest) {
        (Some((server, tool)), arguments) => (server, tool, arguments),
        (None, [tool, arguments @ ..]) => (server, tool.as_str(), arguments),
        (None, []) => {
            return Err(CliError::Usage(
                "which tool? write `tool call SERVER TOOL ARGUMENTS`".to_owned(),
            ));
        }
    };
    let body = json!({ "arguments": read_arguments(arguments)? });
    let answer = client
        .post(&["servers", server, "tools", tool, "call"], &body)
        .await?;
    let failed = answer["result"]["isError"] == true;
    output.show(answer, |answer: CallToolResponse| {
        result_in_words(&serde_json::from_str(answer.result.get()).unwrap_or_default())
    })?;
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// One JSON object, or pairs whose values are JSON where they can be read so, else text.
fn read_arguments(words: &[String]) -> Result<Value, CliError> {
    if let [only] = words
        && only.trim_start().starts_with('{')
    {
        return serde_json::from_str(only).map_err(|error| CliError::Usage(format!("arguments: {error}")));
    }
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) => {
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
            Ok((name.to_owned(), value))
        }
        None => Err(CliError::Usage(format!(
            "argument {word:?}: write NAME=VALUE, or all as one JSON object"
        ))),
    };
    words
        .iter()
        .map(pair)
        .collect::<Result<serde_json::Map<_, _>, _>>()
        .map(Value::Object)
}

/// The texts of a `CallToolResult`; what is no text is named.
fn result_in_words(result: &Value) -> String {
    let Some(content) = result["content"].as_array() else {
        return format!("{result:#}");
    };
    let parts = content.iter().map(|part| match part["text"].as_str() {
        Some(text) => text.to_owned(),
        None => format!("[{}]", part["type"].as_str().unwrap_or("unknown")),
    });
    parts.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(words: &[&str]) -> Value {
        read_arguments(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn arguments_are_an_object_or_pairs() {
        assert_eq!(read(&["{\"a\": 1}"]), json!({ "a": 1 }));
        assert_eq!(
            read(&["a=1", "zone=Asia/Tokyo", "on=true"]),
            json!({ "a": 1, "zone": "Asia/Tokyo", "on": true })
        );
        assert_eq!(read(&[]), json!({}));
        assert!(read_arguments(&["a".to_owned()]).is_err());
    }
}
