//! `troupe key …`

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};
use troupe_protocol::{
    access::{KeyInfo, NewKey, Role, ToolsShown},
    api::{CreatedKey, LoginLink, Page},
};

use super::{
    client::Client,
    error::CliError,
    output::{Output, Table, ago, duration, or_dash},
};

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key; it is told once.
    Add {
        /// For whom or what.
        name: String,
        /// What its holder may do: user, operator or admin.
        #[arg(long, default_value_t = Role::User, value_parser = role)]
        role: Role,
        /// Which tools its MCP clients are listed at /mcp: full (all) or search (find_tools and call_tool alone).
        #[arg(long, default_value_t = ToolsShown::Full, value_parser = tools_shown)]
        tools: ToolsShown,
    },
    /// List the keys; never the keys themselves.
    List,
    /// Make a key worthless.
    Revoke {
        /// Its id or its name.
        key: String,
    },
    /// Make a one-time link that signs a browser in as administrator.
    LoginLink,
}

fn role(text: &str) -> Result<Role, String> {
    text.parse()
        .map_err(|_| "allowed: user, operator, admin".to_owned())
}

fn tools_shown(text: &str) -> Result<ToolsShown, String> {
    text.parse().map_err(|_| "allowed: full, search".to_owned())
}

pub async fn run(client: &Client, command: KeyCommand, output: Output) -> Result<ExitCode, CliError> {
    match command {
        KeyCommand::Add { name, role, tools } => {
            let new = NewKey {
                tools,
                ..NewKey::new(name.clone(), role)
            };
            let made = client.post(&["keys"], &new).await?;
            output.note(&format!("a key for {name} ({role}); it is not told again:"));
            output.show(made, |made: CreatedKey| made.key)?;
        }
        KeyCommand::List => {
            let keys = client.get(&["keys"], &[]).await?;
            output.show(keys, |page: Page<KeyInfo>| list_in_words(page.items))?;
        }
        KeyCommand::Revoke { key } => {
            let id = id_of(client, &key).await?;
            let answer = client.delete(&["keys", &id]).await?;
            output.show(answer, |_: Value| format!("revoked {key}"))?;
        }
        KeyCommand::LoginLink => {
            let link = client.post(&["login-link"], &json!({})).await?;
            output.show(link, |link: LoginLink| {
                format!("{}\nworks once, for {}", link.url, duration(link.expires_in_ms))
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list_in_words(keys: Vec<KeyInfo>) -> String {
    let mut table = Table::new(&["id", "name", "role", "tools", "key", "made", "last used"]);
    for key in keys {
        let used = or_dash(key.last_used_at.map(ago));
        table.row([
            key.id.to_string(),
            key.name,
            key.role.to_string(),
            key.tools.to_string(),
            key.hint,
            ago(key.created_at),
            used,
        ]);
    }
    table.or("no keys")
}

/// People know keys by their names, the API by their ids.
async fn id_of(client: &Client, key: &str) -> Result<String, CliError> {
    let keys = client.get(&["keys"], &[]).await?;
    let known = keys["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = known
        .iter()
        .find(|known| known["name"] == key)
        .and_then(|known| known["id"].as_str());
    Ok(named.unwrap_or(key).to_owned())
}
