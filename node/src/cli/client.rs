//! Asking a running node.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio_util::io::ReaderStream;
use troupe_protocol::error::{Code, Problem};
use url::Url;

use super::{Target, error::CliError};
use crate::config::data_dir_default;

/// Longest time for a connection to a node to open.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than any answer the node gives itself time for by default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(180);

/// Longest transfer of a backup.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3_600);

/// In the data folder of a running node: where it listens.
pub const NODE_FILE: &str = "node.json";
/// In the data folder: the first administrator's key.
pub const ADMIN_KEY_FILE: &str = "admin.key";

/// What [`NODE_FILE`] says.
#[derive(Debug, Serialize, Deserialize)]
pub struct NodeFile {
    /// Where the node listens, such as `http://127.0.0.1:7500`.
    pub url: String,
    /// Its process.
    pub pid: u32,
}

/// A node and a key for it.
pub struct Client {
    base: Url,
    key: Option<String>,
    http: reqwest::Client,
}

impl Client {
    /// The node that the flags, the environment or the data folder name.
    ///
    /// # Errors
    /// [`CliError::NoNode`] when none runs on the data folder.
    pub fn find(target: &Target) -> Result<Self, CliError> {
        let folder = match &target.data {
            Some(folder) => folder.clone(),
            None => data_dir_default()?,
        };
        let base = match &target.node {
            Some(url) => url.clone(),
            None => node_of(&folder)?.url,
        };
        let base = Url::parse(&base)
            .ok()
            .filter(|url| !url.cannot_be_a_base())
            .ok_or_else(|| {
                CliError::Usage(format!(
                    "--node {base}: no address; allowed: a URL such as http://127.0.0.1:7500"
                ))
            })?;
        let key = match &target.key {
            Some(key) => Some(key.clone()),
            // The folder's key is for the folder's node only.
            None if target.node.is_none() || target.data.is_some() => key_of(&folder)?,
            None => None,
        };
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .no_proxy()
            .build()
            .map_err(|error| CliError::Failed(format!("cannot make an HTTP client: {error}")))?;
        Ok(Self { base, key, http })
    }

    /// The node's address.
    pub fn base(&self) -> &Url {
        &self.base
    }

    /// Reads what is at this path.
    pub async fn get(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, CliError> {
        self.send(Method::GET, path, query, None).await
    }

    /// Sends a body to this path.
    pub async fn post(&self, path: &[&str], body: &impl Serialize) -> Result<Value, CliError> {
        self.send_body(Method::POST, path, body).await
    }

    /// Sends a body to this path, with a query.
    pub async fn post_with(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        body: &impl Serialize,
    ) -> Result<Value, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Failed(error.to_string()))?;
        self.send(Method::POST, path, query, Some(body)).await
    }

    /// Changes what is at this path.
    pub async fn patch(&self, path: &[&str], body: &impl Serialize) -> Result<Value, CliError> {
        self.send_body(Method::PATCH, path, body).await
    }

    /// Puts something at this path.
    pub async fn put(&self, path: &[&str], body: &impl Serialize) -> Result<Value, CliError> {
        self.send_body(Method::PUT, path, body).await
    }

    /// Removes what is at this path.
    pub async fn delete(&self, path: &[&str]) -> Result<Value, CliError> {
        self.send(Method::DELETE, path, &[], None).await
    }

    /// Removes what is at this path, with a query.
    pub async fn delete_with(&self, path: &[&str], query: &[(&str, String)]) -> Result<Value, CliError> {
        self.send(Method::DELETE, path, query, None).await
    }

    /// Writes what is at this path into a new file that only its owner may read; its size in bytes.
    pub async fn download(&self, path: &[&str], file: &Path) -> Result<u64, CliError> {
        let failed = |error: io::Error| CliError::Failed(format!("cannot write {}: {error}", file.display()));
        let request = self
            .authorized(self.http.get(self.url(path, &[])))
            .timeout(TRANSFER_TIMEOUT);
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        if !answer.status().is_success() {
            let status = answer.status();
            let bytes = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
            return Err(self.refused(status, &bytes));
        }
        // Whole or not there: a half backup under the final name would be taken for one.
        let mut unfinished = file.as_os_str().to_owned();
        unfinished.push(".unfinished");
        let mut target = new_private_file(Path::new(&unfinished)).await.map_err(failed)?;
        let (mut chunks, mut size_bytes) = (answer.bytes_stream(), 0);
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| self.unreachable(&error))?;
            size_bytes += chunk.len() as u64;
            target.write_all(&chunk).await.map_err(failed)?;
        }
        target.sync_all().await.map_err(failed)?;
        tokio::fs::rename(&unfinished, file).await.map_err(failed)?;
        Ok(size_bytes)
    }

    /// Sends a file as it is.
    pub async fn upload(
        &self,
        path: &[&str],
        query: &[(&str, String)],
        file: &Path,
    ) -> Result<Value, CliError> {
        let failed = |error: io::Error| CliError::Failed(format!("cannot read {}: {error}", file.display()));
        let source = tokio::fs::File::open(file).await.map_err(failed)?;
        let request = self
            .authorized(self.http.post(self.url(path, query)))
            .timeout(TRANSFER_TIMEOUT)
            .header("content-type", "application/octet-stream")
            .body(reqwest::Body::wrap_stream(ReaderStream::new(source)));
        self.answer_to(request).await
    }

    /// Where the node speaks MCP, for all servers as one or for one of them, and the key to present there.
    pub fn mcp_endpoint(&self, server: Option<&str>) -> (Url, Option<String>) {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("mcp");
            if let Some(server) = server {
                segments.push("servers").push(server);
            }
        }
        (url, self.key.clone())
    }

    fn authorized(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    async fn send_body(
        &self,
        method: Method,
        path: &[&str],
        body: &impl Serialize,
    ) -> Result<Value, CliError> {
        let body = serde_json::to_vec(body).map_err(|error| CliError::Failed(error.to_string()))?;
        self.send(method, path, &[], Some(body)).await
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, String)],
        body: Option<Vec<u8>>,
    ) -> Result<Value, CliError> {
        let mut request = self.authorized(self.http.request(method, self.url(path, query)));
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        self.answer_to(request).await
    }

    async fn answer_to(&self, request: RequestBuilder) -> Result<Value, CliError> {
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        let bytes = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
        if status.is_success() {
            return if bytes.is_empty() {
                Ok(Value::Null)
            } else {
                read_json(&bytes)
            };
        }
        Err(self.refused(status, &bytes))
    }

    fn url(&self, path: &[&str], query: &[(&str, String)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    fn unreachable(&self, error: &reqwest::Error) -> CliError {
        if error.is_timeout() && !error.is_connect() {
            return CliError::Failed(format!("{} did not answer in time", self.base));
        }
        CliError::NoNode(format!(
            "no node answers at {}; start one with `troupe up`",
            self.base
        ))
    }

    fn refused(&self, status: StatusCode, bytes: &[u8]) -> CliError {
        let problem: Option<Problem> = serde_json::from_slice(bytes).ok();
        match problem {
            Some(_) if status == StatusCode::UNAUTHORIZED && self.key.is_none() => CliError::NoKey(format!(
                "{}: no key for {}; give one with --key, or name the node's data folder with --data",
                Code::Unauthenticated,
                self.base
            )),
            Some(problem) => CliError::Problem(Box::new(problem)),
            None => CliError::Failed(format!("{} answered {status}; is it a Troupe node?", self.base)),
        }
    }
}

/// A new file that only its owner may read. One that was there goes: it may be open to others, or lead elsewhere.
async fn new_private_file(path: &Path) -> io::Result<tokio::fs::File> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = tokio::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    options.mode(0o600);
    options.open(path).await
}

fn read_json(bytes: &[u8]) -> Result<Value, CliError> {
    serde_json::from_slice(bytes)
        .map_err(|error| CliError::Failed(format!("the node's answer is no JSON: {error}")))
}

fn node_of(folder: &Path) -> Result<NodeFile, CliError> {
    let path = folder.join(NODE_FILE);
    let text = fs::read_to_string(&path).map_err(|_| {
        CliError::NoNode(format!(
            "no node is running on {}; start one with `troupe up`, or name one with --data DIR or --node URL",
            folder.display()
        ))
    })?;
    serde_json::from_str(&text).map_err(|error| CliError::Failed(format!("{}: {error}", path.display())))
}

fn key_of(folder: &Path) -> Result<Option<String>, CliError> {
    let path: PathBuf = folder.join(ADMIN_KEY_FILE);
    match fs::read_to_string(&path) {
        Ok(key) => Ok(Some(key.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(CliError::NoKey(format!(
            "cannot read the key in {}: {error}",
            path.display()
        ))),
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[tokio::test]
    async fn a_private_file_is_new_whatever_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let (path, foreign) = (folder.path().join("x.unfinished"), folder.path().join("foreign"));
        fs::write(&foreign, "theirs").unwrap();
        symlink(&foreign, &path).unwrap();
        for _ in 0..2 {
            let mut file = new_private_file(&path).await.unwrap();
            file.write_all(b"ours").await.unwrap();
            file.flush().await.unwrap();
            let metadata = fs::symlink_metadata(&path).unwrap();
            assert!(metadata.is_file());
            assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        }
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "theirs");
    }
}
