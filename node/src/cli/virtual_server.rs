//! `troupe virtual …`

use std::{fmt::Write, path::PathBuf, process::ExitCode};

use clap::Subcommand;
use serde_json::Value;
use troupe_protocol::{
    api::Page,
    virtual_server::{VirtualDefinition, VirtualDetail, VirtualItem, VirtualSummary},
};

use super::{
    client::Client,
    error::CliError,
    output::{Output, Table, ago, or_dash, shortened},
};

const EXAMPLE: &str = r#"An example, desk.toml:

  title = "Desk"
  description = "What the help desk may use"

  [[items]]
  server = "tickets"
  name = "create_ticket"
  as = "report"
  description = "Report a problem to the help desk"
  fixed = { queue = "desk" }
  hidden = ["debug"]
  timeout_ms = 20000

  [[items]]
  kind = "resource_template"
  server = "docs"
  name = "docs://{page}"

Clients connect to /mcp/virtual/NAME."#;

#[derive(Debug, Subcommand)]
pub enum VirtualCommand {
    /// Make a virtual server from a file, in place of the one with that name if there is one.
    #[command(after_help = EXAMPLE)]
    Add {
        /// Its name; what the file says when absent.
        name: Option<String>,
        /// The definition, in TOML or JSON; `-` reads standard input.
        #[arg(long, short)]
        file: PathBuf,
    },
    /// List the virtual servers.
    List,
    /// What a virtual server offers, and what of it does not fit its servers now.
    Show {
        /// Its name.
        name: String,
    },
    /// Remove a virtual server; the servers behind it stay.
    Remove {
        /// Its name.
        name: String,
    },
}

pub async fn run(client: &Client, command: VirtualCommand, output: Output) -> Result<ExitCode, CliError> {
    match command {
        VirtualCommand::Add { name, file } => {
            let definition = read_definition(&super::server::read_input(&file)?)?;
            let name = name.or_else(|| definition.name.as_ref().map(ToString::to_string));
            let name = name.ok_or_else(|| {
                CliError::Usage(
                    "what is it called? write `virtual add NAME --file FILE`, or `name` in the file".into(),
                )
            })?;
            let kept = client.put(&["virtual", &name], &definition).await?;
            output.show(kept, |detail: VirtualDetail| {
                format!(
                    "{name}: clients connect to {}\n{}",
                    detail.summary.path,
                    warnings_in_words(&detail)
                )
            })?;
        }
        VirtualCommand::List => {
            let servers = client.get(&["virtual"], &[("limit", "500".to_owned())]).await?;
            output.show(servers, |page: Page<VirtualSummary>| list_in_words(page.items))?;
        }
        VirtualCommand::Show { name } => {
            output.show(client.get(&["virtual", &name], &[]).await?, detail_in_words)?;
        }
        VirtualCommand::Remove { name } => {
            let answer = client.delete(&["virtual", &name]).await?;
            output.show(answer, |_: Value| format!("removed {name}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// JSON begins with a brace, which no TOML does.
fn read_definition(text: &str) -> Result<VirtualDefinition, CliError> {
    let read = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| error.to_string())
    } else {
        toml::from_str(text).map_err(|error| error.to_string())
    };
    read.map_err(|error| CliError::Usage(format!("the definition cannot be read: {error}")))
}

fn list_in_words(servers: Vec<VirtualSummary>) -> String {
    let mut table = Table::new(&[
        "name",
        "title",
        "tools",
        "resources",
        "prompts",
        "servers",
        "changed",
    ]);
    for server in servers {
        let behind: Vec<String> = server.servers.iter().map(ToString::to_string).collect();
        table.row([
            server.name.to_string(),
            or_dash(server.title),
            server.tools_count.to_string(),
            server.resources_count.to_string(),
            server.prompts_count.to_string(),
            shortened(&behind.join(", "), 60),
            ago(server.updated_at),
        ]);
    }
    table.or("no virtual servers; make one with `troupe virtual add NAME --file FILE`")
}

fn detail_in_words(detail: VirtualDetail) -> String {
    let summary = &detail.summary;
    let mut text = format!("{}: clients connect to {}\n", summary.name, summary.path);
    let mut line = |label: &str, value: String| {
        let _ = writeln!(text, "  {label:<12} {value}");
    };
    let texts = [("title", &summary.title), ("description", &summary.description)];
    for (label, value) in texts {
        value.iter().for_each(|value| line(label, value.clone()));
    }
    line(
        "changed",
        format!("{} by {}", ago(summary.updated_at), detail.updated_by),
    );
    let mut table = Table::new(&["kind", "name", "server", "there", "arguments", "time-out"]);
    for item in &detail.definition.items {
        table.row([
            item.kind.words().to_owned(),
            item.exposed_name().to_owned(),
            item.server.to_string(),
            item.name.clone(),
            arguments_in_words(item),
            or_dash(item.timeout_ms.map(|ms| format!("{ms} ms"))),
        ]);
    }
    format!("{text}{table}\n{}", warnings_in_words(&detail))
}

fn arguments_in_words(item: &VirtualItem) -> String {
    let fixed = item
        .fixed
        .iter()
        .map(|(argument, value)| format!("{argument}={value}"));
    let hidden = item.hidden.iter().map(|argument| format!("no {argument}"));
    let all: Vec<String> = fixed.chain(hidden).collect();
    if all.is_empty() {
        return "-".to_owned();
    }
    shortened(&all.join(", "), 60)
}

fn warnings_in_words(detail: &VirtualDetail) -> String {
    let mut text = String::new();
    for warning in &detail.warnings {
        let _ = writeln!(
            text,
            "warning: {} {} of {}: {}",
            warning.kind.words(),
            warning.name,
            warning.server,
            warning.reason
        );
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_example_of_the_help_is_a_definition_and_so_is_its_json() {
        let toml = EXAMPLE.split_once("\n\n").unwrap().1;
        let toml = toml.split_once("\n\nClients").unwrap().0;
        let definition = read_definition(toml).unwrap();
        assert_eq!(definition.items.len(), 2);
        assert_eq!(definition.items[0].fixed["queue"], "desk");
        let json = serde_json::to_string(&definition).unwrap();
        assert_eq!(read_definition(&json).unwrap(), definition);
        let wrong = read_definition("items = [{ server = \"a\" }]")
            .unwrap_err()
            .to_string();
        assert!(wrong.contains("name"), "{wrong}");
    }
}
