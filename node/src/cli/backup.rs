//! `troupe backup` and `troupe restore`: the replicated state of the cluster as one file.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use serde_json::json;
use troupe_protocol::api::Restored;

use super::{client::Client, error::CliError, output::Output};

#[derive(Debug, Args)]
pub struct BackupArgs {
    /// Where to write it. It holds sealed secrets and hashes of keys: keep it as you keep the data folder.
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// What `troupe backup` wrote.
    file: PathBuf,
    /// All servers, keys, secrets and conversations of the cluster are replaced by those of the backup: say that this
    /// is meant.
    #[arg(long)]
    replace_everything: bool,
}

pub async fn back_up(client: &Client, args: BackupArgs, output: Output) -> Result<ExitCode, CliError> {
    let bytes = client.download(&["cluster", "backup"], &args.file).await?;
    output.show(
        json!({ "file": args.file, "bytes": bytes }),
        |_: serde_json::Value| format!("{bytes} bytes in {}", args.file.display()),
    )?;
    Ok(ExitCode::SUCCESS)
}

pub async fn restore(client: &Client, args: RestoreArgs, output: Output) -> Result<ExitCode, CliError> {
    if !args.replace_everything {
        return Err(CliError::Usage(
            "restoring replaces all servers, keys, secrets and conversations of the cluster by those of the backup; add --replace-everything if that is meant"
                .to_owned(),
        ));
    }
    refuse_missing(&args.file)?;
    let answer = client
        .upload(
            &["cluster", "restore"],
            &[("confirm", "replace-everything".to_owned())],
            &args.file,
        )
        .await?;
    output.show(answer, |restored: Restored| {
        let secrets = if restored.with_secrets {
            ""
        } else {
            "
the backup is of another cluster, whose secrets cannot be opened here: set them again with `troupe secret set`"
        };
        format!(
            "restored {}: {} records put, {} removed, {} as they were{secrets}",
            args.file.display(),
            restored.put,
            restored.removed,
            restored.unchanged
        )
    })?;
    Ok(ExitCode::SUCCESS)
}

fn refuse_missing(file: &Path) -> Result<(), CliError> {
    if file.is_file() {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "{}: there is no such file",
        file.display()
    )))
}
