//! `troupe secret …`. A value comes from standard input or a prompt, never from the command line, where other users
//! of the machine and the shell's history would see it.

use std::{
    io::{self, IsTerminal, Read},
    process::ExitCode,
};

use clap::Subcommand;
use serde_json::{Value, json};
use troupe_protocol::{access::SecretInfo, api::Page};

use super::{
    client::Client,
    error::CliError,
    output::{Output, Table, ago, or_dash},
};

#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Set a secret. Its value is read from standard input (one trailing newline is dropped) or asked for.
    Set {
        /// Its name, such as github-token.
        name: String,
    },
    /// List the secrets; never their values.
    List,
    /// Remove a secret.
    Remove {
        /// Its name.
        name: String,
    },
}

pub async fn run(client: &Client, command: SecretCommand, output: Output) -> Result<ExitCode, CliError> {
    match command {
        SecretCommand::Set { name } => {
            let value = read_value(&name)?;
            let info = client
                .put(&["secrets", &name], &json!({ "value": value }))
                .await?;
            output.show(info, |_: Value| {
                format!("set {name}; refer to it as ${{secret:{name}}}")
            })?;
        }
        SecretCommand::List => {
            let secrets = client.get(&["secrets"], &[]).await?;
            output.show(secrets, |page: Page<SecretInfo>| list_in_words(page.items))?;
        }
        SecretCommand::Remove { name } => {
            let answer = client.delete(&["secrets", &name]).await?;
            output.show(answer, |_: Value| format!("removed {name}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn read_value(name: &str) -> Result<String, CliError> {
    let failed = |error: io::Error| CliError::Failed(format!("cannot read the value: {error}"));
    let value = if io::stdin().is_terminal() {
        rpassword::prompt_password(format!("value of {name} (not shown): ")).map_err(failed)?
    } else {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map_err(failed)?;
        let without_newline = text.strip_suffix('\n').unwrap_or(&text);
        without_newline
            .strip_suffix('\r')
            .unwrap_or(without_newline)
            .to_owned()
    };
    if value.is_empty() {
        return Err(CliError::Usage(format!(
            "the value of {name} is empty; write it to standard input"
        )));
    }
    Ok(value)
}

fn list_in_words(secrets: Vec<SecretInfo>) -> String {
    let mut table = Table::new(&["name", "set", "last used", "used by"]);
    for secret in secrets {
        let used = or_dash(secret.last_used_at.map(ago));
        table.row([
            secret.name.to_string(),
            ago(secret.updated_at),
            used,
            secret.used_by.join(", "),
        ]);
    }
    table.or("no secrets; set one with `troupe secret set NAME`")
}
