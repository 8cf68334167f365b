//! A node's worth of upstreams without registry and vault, and the servers it is tried on.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use secrecy::{ExposeSecret, SecretString};
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;
use troupe_protocol::access::SecretTemplate;
use troupe_protocol::error::Code;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::method;
use troupe_protocol::server::{ServerName, Transport};

use crate::cluster::ClusterHandle;
use crate::runtime::{ActorPath, Deadline, Root, System, SystemConfig, testkit};
use crate::upstream::*;

/// Servers and secrets kept in memory.
pub struct Book {
    servers: Mutex<HashMap<ServerName, RegisteredServer>>,
    changes: broadcast::Sender<ServerName>,
    logins: Mutex<HashMap<ServerName, SecretString>>,
}

impl ServerSource for Book {
    fn find(&self, name: &ServerName) -> Option<RegisteredServer> {
        self.servers.lock().get(name).cloned()
    }

    fn changes(&self) -> BoxStream<'static, ServerChange> {
        let changes = BroadcastStream::new(self.changes.subscribe());
        changes
            .map(|change| change.map_or(ServerChange::Any, ServerChange::One))
            .boxed()
    }
}

impl SecretSource for Book {
    fn resolve<'a>(
        &'a self,
        template: &'a SecretTemplate,
        _: Deadline,
    ) -> BoxFuture<'a, Result<SecretString, SecretFailure>> {
        let text = template.as_str().replace("${secret:token}", "s3cr3t-t0k3n");
        async move { Ok(SecretString::from(text)) }.boxed()
    }

    fn login<'a>(
        &'a self,
        server: &'a ServerName,
    ) -> BoxFuture<'a, Result<Option<SecretString>, SecretFailure>> {
        let login = self.logins.lock().get(server).cloned();
        async move { Ok(login) }.boxed()
    }

    fn keep_login<'a>(
        &'a self,
        server: &'a ServerName,
        login: SecretString,
        in_place_of: Option<SecretString>,
    ) -> BoxFuture<'a, Result<(), SecretFailure>> {
        let mut logins = self.logins.lock();
        let kept = logins.get(server).map(|kept| kept.expose_secret().to_owned());
        if in_place_of.is_some_and(|expected| kept.as_deref() != Some(expected.expose_secret())) {
            let (code, reason) = (Code::WriteConflict, "another login is kept".to_owned());
            return async move { Err(SecretFailure { code, reason }) }.boxed();
        }
        logins.insert(server.clone(), login);
        async move { Ok(()) }.boxed()
    }
}

/// Everything a test needs.
pub struct Bed {
    pub system: System,
    pub upstreams: UpstreamsHandle,
    pub book: Arc<Book>,
    pub folder: tempfile::TempDir,
    root: Mutex<Option<Root>>,
}

/// A cluster of one.
pub fn alone() -> ClusterHandle {
    ClusterHandle::alone(troupe_protocol::id::NodeId::from_ulid(ulid::Ulid(1)))
}

pub fn name(text: &str) -> ServerName {
    ServerName::new(text).unwrap()
}

pub fn soon() -> Deadline {
    Deadline::within(testkit::PATIENCE)
}

pub fn raw(value: serde_json::Value) -> Option<Box<RawValue>> {
    Some(to_raw_value(&value).unwrap())
}

impl Bed {
    pub async fn new() -> Self {
        Self::with(UpstreamSettings {
            probe_timeout_ms: 10_000,
            stop_timeout_ms: 10_000,
            ..UpstreamSettings::default()
        })
        .await
    }

    /// On a node of a cluster.
    pub async fn within(cluster: ClusterHandle) -> Self {
        let settings = UpstreamSettings {
            probe_timeout_ms: 10_000,
            stop_timeout_ms: 10_000,
            ..UpstreamSettings::default()
        };
        Self::build(settings, cluster).await
    }

    pub async fn with(settings: UpstreamSettings) -> Self {
        Self::build(settings, alone()).await
    }

    async fn build(settings: UpstreamSettings, cluster: ClusterHandle) -> Self {
        let system = System::new(SystemConfig::default());
        let book = Arc::new(Book {
            servers: Mutex::default(),
            changes: broadcast::Sender::new(64),
            logins: Mutex::default(),
        });
        let (servers, secrets) = (
            Arc::clone(&book) as Arc<dyn ServerSource>,
            Arc::clone(&book) as Arc<dyn SecretSource>,
        );
        let path = ActorPath::new("node/upstreams");
        let (upstreams, child) = UpstreamsHandle::build(&system, path, settings, servers, secrets, cluster);
        let root = testkit::start(&system, vec![child]).await.unwrap();
        Self {
            system,
            upstreams,
            book,
            folder: tempfile::tempdir().unwrap(),
            root: Mutex::new(Some(root)),
        }
    }

    /// Registers a server or changes its entry.
    pub fn register(&self, server: &str, transport: Transport) {
        self.book.servers.lock().insert(
            name(server),
            RegisteredServer {
                enabled: true,
                transport: Some(transport),
            },
        );
        let _ = self.book.changes.send(name(server));
    }

    pub fn disable(&self, server: &str) {
        if let Some(entry) = self.book.servers.lock().get_mut(&name(server)) {
            entry.enabled = false;
        }
        let _ = self.book.changes.send(name(server));
    }

    /// Registers a shell script as a server; what it writes to `$LOG` can be read by [`Bed::log`].
    pub fn register_script(&self, server: &str, script: &str) {
        self.register(server, self.script(script));
    }

    pub fn script(&self, script: &str) -> Transport {
        let log = self.folder.path().join("log").to_string_lossy().into_owned();
        let env = [("LOG", log.as_str()), ("TOKEN", "${secret:token}")];
        let env = env.map(|(name, value)| (name.to_owned(), value.parse::<SecretTemplate>().unwrap()));
        let (command, args) = ("sh".to_owned(), vec!["-c".to_owned(), script.to_owned()]);
        Transport::Stdio {
            command,
            args,
            cwd: None,
            env: BTreeMap::from(env),
        }
    }

    pub fn register_url(&self, server: &str, url: &str) {
        let token = (
            "authorization".to_owned(),
            "Bearer ${secret:token}".parse::<SecretTemplate>().unwrap(),
        );
        let headers = BTreeMap::from([token]);
        self.register(
            server,
            Transport::StreamableHttp {
                url: url.to_owned(),
                headers,
            },
        );
    }

    pub fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// What the script has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Waits until the script has written this.
    pub async fn logged(&self, text: &str) {
        let seen = testkit::eventually(testkit::PATIENCE, || self.log().contains(text)).await;
        assert!(
            seen.is_ok(),
            "{text:?} was not written; the log is {:?}",
            self.log()
        );
    }

    pub async fn call(&self, server: &str, tool: &str) -> Result<RawReply, UpstreamError> {
        self.call_until(server, tool, soon()).await
    }

    pub async fn call_until(
        &self,
        server: &str,
        tool: &str,
        deadline: Deadline,
    ) -> Result<RawReply, UpstreamError> {
        let upstream = self.upstreams.get(&name(server), deadline).await?;
        let params = raw(serde_json::json!({ "name": tool, "arguments": {} }));
        upstream
            .request(method::TOOLS_CALL, params, CallOptions::own(deadline))
            .await
    }

    /// Ends all actors, as the end of a node does.
    pub async fn shutdown(&self) {
        let root = self.root.lock().take();
        if let Some(root) = root {
            root.shutdown().await;
        }
    }
}

/// The text of a result's first content, or of an error.
pub fn text(reply: &RawReply) -> String {
    let (RawReply::Result(raw) | RawReply::Error(raw)) = reply;
    let value: serde_json::Value = serde_json::from_str(raw.get()).unwrap();
    let text = value["content"][0]["text"]
        .as_str()
        .or_else(|| value["message"].as_str());
    text.unwrap_or_else(|| raw.get()).to_owned()
}

/// Runs a call in the background.
pub fn background(
    bed: &Arc<Bed>,
    server: &'static str,
    tool: &'static str,
) -> tokio::task::JoinHandle<Result<RawReply, UpstreamError>> {
    let bed = Arc::clone(bed);
    tokio::spawn(async move { bed.call(server, tool).await })
}

/// A server of the legacy era as a shell script. It needs nothing but a POSIX shell.
pub const LEGACY: &str = r#"
say() { printf '%s\n' "$1"; }
result() { say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$1}"; }
text() { result "{\"content\":[{\"type\":\"text\",\"text\":\"$1\"}]}"; }
echo "start $$" >> "$LOG"
echo "token is $TOKEN" >&2
while IFS= read -r line; do
  echo "$line" >> "$LOG"
  id=${line#*\"id\":}; id=${id%%,*}
  case $line in
    *'"method":"server/discover"'*) say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"Method not found\"}}" ;;
    *'"method":"initialize"'*) result '{"protocolVersion":"2025-06-18","capabilities":{"tools":{"listChanged":true}},"serverInfo":{"name":"shell","version":"1"}}' ;;
    *'"method":"notifications/'*) ;;
    *'"method":"tools/list"'*) result '{"tools":[{"name":"pid","inputSchema":{"type":"object"},"big":123456789012345678901234567890}]}' ;;
    *'"name":"pid"'*) text "$$" ;;
    *'"name":"home"'*) text "$HOME" ;;
    *'"name":"cargo"'*) text "${CARGO_MANIFEST_DIR:-none}" ;;
    *'"name":"hang"'*) ;;
    *'"name":"exit"'*) echo "giving up" >&2; exit 3 ;;
    *'"name":"child"'*) sleep 1000 & text "$!" ;;
    *'"name":"noise"'*) say "not json"; say ""; text quiet ;;
    *'"name":"ping"'*) say '{"jsonrpc":"2.0","id":"theirs","method":"ping"}'; text pinged ;;
    *'"name":"changed"'*) say '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'; text told ;;
    *'"name":"progress"'*)
      say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{\"progressToken\":$id,\"progress\":1,\"x\":1e400}}"
      text done ;;
    *'"name":"echo"'*) result "$line" ;;
    *'"name":"ask"'*) asked=$id; say '{"jsonrpc":"2.0","id":"question","method":"elicitation/create","params":{"message":"who?","n":1e400}}' ;;
    *'"id":"question"'*) id=$asked; result "{\"pid\":\"$$\",\"answer\":$line}" ;;
    *'"id":"theirs"'*) ;;
    *) say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"Method not found\"}}" ;;
  esac
done
echo "end $$" >> "$LOG"
"#;

/// A server of the modern era as a shell script.
pub const MODERN: &str = r#"
say() { printf '%s\n' "$1"; }
result() { say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"result\":$1}"; }
echo "start $$" >> "$LOG"
while IFS= read -r line; do
  echo "$line" >> "$LOG"
  id=${line#*\"id\":}; id=${id%%,*}
  case $line in
    *'"method":"server/discover"'*) result '{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{"listChanged":true}},"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"modern-shell","version":"2"}}}' ;;
    *'"method":"subscriptions/listen"'*) say "{\"jsonrpc\":\"2.0\",\"method\":\"notifications/subscriptions/acknowledged\",\"params\":{\"_meta\":{\"io.modelcontextprotocol/subscriptionId\":$id}}}" ;;
    *'"name":"echo"'*) result "$line" ;;
    *'"name":"changed"'*) say '{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}'; result '{"resultType":"complete","content":[]}' ;;
    *) say "{\"jsonrpc\":\"2.0\",\"id\":$id,\"error\":{\"code\":-32601,\"message\":\"Method not found\"}}" ;;
  esac
done
"#;
