//! `troupe audit`

use std::process::ExitCode;

use clap::Args;
use troupe_protocol::access::AuditPage;

use super::{
    client::Client,
    error::CliError,
    output::{Output, Table},
};

#[derive(Debug, Args)]
pub struct AuditArgs {
    /// Only what this principal did.
    #[arg(long)]
    principal: Option<String>,
    /// Only this action, or those that begin with it: `server` finds `server.register`.
    #[arg(long)]
    action: Option<String>,
    /// Only subjects that contain this text.
    #[arg(long)]
    subject: Option<String>,
    /// Most events to list, newest first.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

pub async fn run(client: &Client, args: AuditArgs, output: Output) -> Result<ExitCode, CliError> {
    let mut query = vec![("limit", args.limit.to_string())];
    query.extend(args.principal.map(|principal| ("principal", principal)));
    query.extend(args.action.map(|action| ("action", action)));
    query.extend(args.subject.map(|subject| ("subject", subject)));
    let page = client.get(&["audit"], &query).await?;
    output.show(page, in_words)?;
    Ok(ExitCode::SUCCESS)
}

fn in_words(page: AuditPage) -> String {
    let mut table = Table::new(&["at", "who", "role", "did", "to", "outcome"]);
    for event in page.items {
        let outcome = match event.detail {
            Some(detail) => format!("{}: {detail}", event.outcome),
            None => event.outcome.to_string(),
        };
        table.row([
            event.at.to_string(),
            event.principal,
            event.role.to_string(),
            event.action,
            event.subject,
            outcome,
        ]);
    }
    table.or("nothing yet")
}
