//! The tokens of this node: one for each server and address, however many connections use it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use rmcp::transport::auth::AuthError;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use troupe_protocol::cluster::MemberState;
use troupe_protocol::server::ServerName;

use super::bearer::Bearer;
use super::login::Login;
use super::schedule::History;
use crate::cluster::ClusterHandle;
use crate::runtime::Deadline;
use crate::upstream::sources::{SecretFailure, SecretSource};

/// Tokens of which something is remembered although nobody uses them.
const REMEMBERED_MAX: usize = 1_024;

/// Where this node stands when a token is to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// How many nodes come before it.
    pub turn: u32,
    /// Whether it can keep what it gets.
    pub can_keep: bool,
}

/// Gets new tokens.
pub(super) trait Renewals: Send + Sync + 'static {
    /// The login with a new token.
    fn renewed<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Login, AuthError>>;
}

/// At the authorization servers themselves.
struct AtItsServer;

impl Renewals for AtItsServer {
    fn renewed<'a>(&'a self, login: &'a Login) -> BoxFuture<'a, Result<Login, AuthError>> {
        Box::pin(login.renewed())
    }
}

/// What all tokens have in common.
#[derive(Clone)]
pub(super) struct Ground {
    pub secrets: Arc<dyn SecretSource>,
    pub renewals: Arc<dyn Renewals>,
    pub standing: Arc<dyn Fn(&ServerName) -> Standing + Send + Sync>,
}

/// The tokens of this node.
pub(in crate::upstream) struct Bearers {
    ground: Ground,
    known: Mutex<HashMap<(ServerName, String), Known>>,
}

/// A token, and what is remembered of it while nobody uses it: a connection that is made again and again must not renew
/// it each time.
struct Known {
    bearer: Weak<Bearer>,
    history: Arc<Mutex<History>>,
}

impl Bearers {
    pub fn new(secrets: Arc<dyn SecretSource>, cluster: ClusterHandle) -> Self {
        let standing = move |server: &ServerName| Standing {
            turn: turn_of(server, &cluster),
            can_keep: cluster.holds_lease(),
        };
        Self::on(Ground {
            secrets,
            renewals: Arc::new(AtItsServer),
            standing: Arc::new(standing),
        })
    }

    pub(super) fn on(ground: Ground) -> Self {
        Self {
            ground,
            known: Mutex::default(),
        }
    }

    /// The token for a server at this address; nothing when nobody has logged in there. One that is about to expire is
    /// renewed first.
    pub async fn get(
        &self,
        server: &ServerName,
        server_url: &str,
        deadline: Deadline,
    ) -> Result<Option<Arc<Bearer>>, SecretFailure> {
        let Some(sealed) = self.ground.secrets.login(server).await? else {
            return Ok(None);
        };
        let Some(login) = Login::read(&sealed, server_url) else {
            return Ok(None);
        };
        let (bearer, is_new) = self.shared(server, login, sealed);
        if !is_new || bearer.is_due() {
            // If it fails the old one may still do; the server says so otherwise.
            bearer.current(deadline).await;
        }
        Ok(Some(bearer))
    }

    fn shared(&self, server: &ServerName, login: Login, sealed: SecretString) -> (Arc<Bearer>, bool) {
        let mut known = self.known.lock();
        let key = (server.clone(), login.server_url.clone());
        if let Some(bearer) = known.get(&key).and_then(|known| known.bearer.upgrade()) {
            return (bearer, false);
        }
        if known.len() >= REMEMBERED_MAX {
            known.retain(|_, known| known.bearer.strong_count() > 0);
        }
        let history = known.get(&key).map(|known| Arc::clone(&known.history));
        let history = history.unwrap_or_else(|| Arc::new(Mutex::new(History::of(login.id()))));
        let ground = self.ground.clone();
        let bearer = Bearer::start(server.clone(), ground, login, sealed, Arc::clone(&history));
        let entry = Known {
            bearer: Arc::downgrade(&bearer),
            history,
        };
        known.insert(key, entry);
        (bearer, true)
    }
}

/// How many members come before this node for a server: each server has its own order, the same on all nodes.
fn turn_of(server: &ServerName, cluster: &ClusterHandle) -> u32 {
    let place =
        |node: &dyn std::fmt::Display| -> [u8; 32] { Sha256::digest(format!("{server} {node}")).into() };
    let own = place(&cluster.node_id());
    let membership = cluster.membership();
    let others = membership
        .members
        .values()
        .filter(|member| member.state == MemberState::Up);
    let before = others.filter(|member| place(&member.id) < own).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}
