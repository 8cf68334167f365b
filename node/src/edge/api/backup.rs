//! The replicated state as one file, and back, while the cluster runs.

use std::{
    fs::{File, OpenOptions},
    io::{self, Seek, SeekFrom},
    path::PathBuf,
    time::Duration,
};

use axum::{
    Json,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use http::header;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use troupe_actors::{
    cluster::log::{BackupHeader, LogHandle, Spared, inspect_backup},
    runtime::Deadline,
};
use troupe_protocol::{api::Restored, error::Code};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{ApiError, ApiQuery, ApiResult, Caller, EdgeState};

/// The path whose requests take as long as they take.
pub const RESTORE_PATH: &str = "/api/v1/cluster/restore";
/// Longest restore.
const RESTORE_TIMEOUT: Duration = Duration::from_secs(3_600);
/// Longest wait for what was acknowledged elsewhere; without a majority the backup has what this node has.
const LINEARIZE_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest backup that is taken.
const BACKUP_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Longest pause between two pieces of a backup that is being sent here.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);
/// What the caller says to show that he knows what he does.
const CONFIRMATION: &str = "replace-everything";
/// Not restored: join strings and login codes that were used since would work again, and sessions that ended go on.
const NEVER_RESTORED: &[&str] = &["invitations", "sessions", "login_codes"];
/// Not restored into another cluster either: secrets are sealed with its key.
const RESTORED_AT_HOME: &[&str] = &["invitations", "sessions", "login_codes", "vault"];

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(back_up))
        .routes(routes!(restore))
}

/// All servers, keys, secrets and conversations of the cluster as they are at one moment. Nothing stands still meanwhile.
#[utoipa::path(
    get, path = "/api/v1/cluster/backup", tag = "cluster",
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>))
)]
async fn back_up(State(state): State<EdgeState>, caller: Caller) -> ApiResult<Response> {
    let log = log_of(&state)?;
    if let Err(error) = log.linearize(Deadline::within(LINEARIZE_TIMEOUT)).await {
        tracing::warn!(%error, "the backup has what this node has; others may have more");
    }
    let file = in_background(nameless_file(&state)?).await?;
    let copy = file.try_clone().map_err(|error| unusable(&error))?;
    let made = log
        .backup(copy, state.cluster.authority()?, jiff::Timestamp::now().into())
        .await;
    state.audit(&caller, "cluster.backup", "", &made);
    let header = made?;
    let (file, size_bytes) = in_background(rewound(file)).await?;
    let name = format!("troupe-{}.backup", header.position);
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, size_bytes.to_string()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{name}\""),
        ),
    ];
    let body = Body::from_stream(ReaderStream::new(tokio::fs::File::from_std(file)));
    Ok((headers, body).into_response())
}

/// Shows that it is meant.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RestoreQuery {
    /// `replace-everything`
    confirm: Option<String>,
}

/// Makes all servers, keys, secrets and conversations those of a backup. The cluster's nodes stay as they are, and so do
/// their keys and the caller's: whoever restores must be able to come in afterwards. It goes on when the caller leaves.
#[utoipa::path(
    post, path = "/api/v1/cluster/restore", tag = "cluster", params(RestoreQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = Restored))
)]
async fn restore(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiQuery(query): ApiQuery<RestoreQuery>,
    request: Request,
) -> ApiResult<Json<Restored>> {
    if query.confirm.as_deref() != Some(CONFIRMATION) {
        let detail = format!(
            "a restore replaces all servers, keys, secrets and conversations; send {CONFIRMATION:?} as `confirm`"
        );
        return Err(ApiError::new(Code::ConfirmationMissing, detail));
    }
    let log = log_of(&state)?;
    let audited = state.auditing(&caller, "cluster.restore", "");
    let done = replace(&state, &caller, log, request).await;
    audited.ended(&done.as_ref().map_err(ApiError::problem));
    done.map(Json)
}

async fn replace(
    state: &EdgeState,
    caller: &Caller,
    log: &LogHandle,
    request: Request,
) -> ApiResult<Restored> {
    let file = receive(state, request).await?;
    let (file, header) = in_background(inspected(file)).await?;
    let is_ours = header.authority == state.cluster.authority()?;
    let spared = Spared {
        trees: if is_ours { NEVER_RESTORED } else { RESTORED_AT_HOME },
        records: state.access.kept_by_a_restore(&caller.principal),
    };
    let restored = log
        .restore(file, spared, Deadline::within(RESTORE_TIMEOUT))
        .await?;
    Ok(Restored {
        made_at: header.made_at,
        put: restored.put,
        removed: restored.removed,
        unchanged: restored.unchanged,
        with_secrets: is_ours,
    })
}

fn log_of(state: &EdgeState) -> ApiResult<&LogHandle> {
    let missing = || ApiError::new(Code::Internal, "this node has no log");
    state.cluster.log().ok_or_else(missing)
}

/// The body in a file: it may be larger than what bodies may hold in memory.
async fn receive(state: &EdgeState, request: Request) -> ApiResult<File> {
    let mut file = tokio::fs::File::from_std(in_background(nameless_file(state)?).await?);
    let (mut pieces, mut size_bytes) = (request.into_body().into_data_stream(), 0_u64);
    loop {
        let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.next()).await;
        let piece = piece.map_err(|_| ApiError::new(Code::RequestTimeout, "the backup stopped coming"))?;
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| ApiError::new(Code::BackupInvalid, error.to_string()))?;
        size_bytes += piece.len() as u64;
        if size_bytes > BACKUP_BYTES_MAX {
            let detail = format!("a backup has at most {BACKUP_BYTES_MAX} bytes");
            return Err(ApiError::new(Code::BodyTooLarge, detail));
        }
        file.write_all(&piece).await.map_err(|error| unusable(&error))?;
    }
    file.flush().await.map_err(|error| unusable(&error))?;
    Ok(file.into_std().await)
}

/// A file in the data folder that only this process has, and that is gone with it.
fn nameless_file(state: &EdgeState) -> ApiResult<impl FnOnce() -> ApiResult<File> + Send + 'static> {
    let folder: PathBuf = state
        .config
        .data_dir()
        .map_err(|error| ApiError::new(Code::StoreUnavailable, error.to_string()))?;
    Ok(move || {
        let path = folder.join(format!("backup-{:016x}", fastrand::u64(..)));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|error| unusable(&error))?;
        std::fs::remove_file(&path).map_err(|error| unusable(&error))?;
        Ok(file)
    })
}

fn rewound(mut file: File) -> impl FnOnce() -> ApiResult<(File, u64)> + Send + 'static {
    move || {
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(|error| unusable(&error))?;
        file.rewind().map_err(|error| unusable(&error))?;
        Ok((file, size_bytes))
    }
}

/// Reads and checks all of it.
fn inspected(mut file: File) -> impl FnOnce() -> ApiResult<(File, BackupHeader)> + Send + 'static {
    move || {
        let header = inspect_backup(&mut file)?;
        Ok((file, header))
    }
}

async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> ApiResult<T> + Send + 'static,
) -> ApiResult<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| ApiError::new(Code::Internal, error.to_string()))?
}

fn unusable(error: &io::Error) -> ApiError {
    ApiError::new(
        Code::StoreUnavailable,
        format!("the data folder cannot take the backup: {error}"),
    )
}
