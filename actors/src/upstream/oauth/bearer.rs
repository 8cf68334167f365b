//! The token that requests to one server carry, kept fresh for as long as somebody holds it.
//!
//! One task does all that may change the token, so that a refresh token is used once however many connections, lanes and
//! calls want a new token. Among nodes it is a matter of turns: the first renews, the others find what it got in the
//! vault, and act only if nothing came.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use reqwest::header::HeaderValue;
use rmcp::transport::auth::AuthError;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use troupe_protocol::error::Code;
use troupe_protocol::server::ServerName;

use super::Ground;
use super::login::Login;
use super::schedule::{History, LoginId};
use crate::runtime::Deadline;
use crate::upstream::log::LogRing;

/// How long a renewal may take.
const RENEW_WITHIN: Duration = Duration::from_secs(45);
/// How soon a login is written again that could not be kept.
const KEEP_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// For how long that is tried once nobody needs the token.
const KEEP_ALONE_MAX: Duration = Duration::from_secs(600);
/// How long each node that is before this one is waited for when a token is wanted at once.
const TURN: Duration = Duration::from_secs(2);
/// How often it is looked meanwhile whether there is one.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The task does nothing for at least so long, unless it is asked.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// The token for one server. Reading it costs no hop.
pub struct Bearer {
    server: ServerName,
    ground: Ground,
    held: Mutex<Held>,
    history: Arc<Mutex<History>>,
    header: ArcSwapOption<HeaderValue>,
    /// Wakes the task.
    wanted: Arc<Notify>,
    /// How often a new token was asked for, and of which of these questions the task has taken care.
    asked: AtomicU64,
    served: watch::Sender<u64>,
    /// Where the token must not appear.
    logs: Mutex<Vec<Weak<LogRing>>>,
}

/// A login, and what the vault has of it.
struct Held {
    login: Login,
    /// As it is to be kept.
    sealed: SecretString,
    /// What was kept when it was last looked.
    kept: SecretString,
}

impl Held {
    fn is_kept(&self) -> bool {
        is_same(&self.sealed, &self.kept)
    }
}

fn is_same(one: &SecretString, other: &SecretString) -> bool {
    one.expose_secret() == other.expose_secret()
}

/// What the vault has.
enum Found {
    /// What this node knows.
    Known,
    /// Another login or token, which was taken.
    Newer,
    /// Nothing for this server any more, or it cannot be read.
    Nothing,
}

impl Bearer {
    /// The token of a login as it was kept, and the task that renews it.
    pub(super) fn start(
        server: ServerName,
        ground: Ground,
        login: Login,
        sealed: SecretString,
        history: Arc<Mutex<History>>,
    ) -> Arc<Self> {
        let bearer = Arc::new(Self {
            server,
            ground,
            held: Mutex::new(Held {
                login: login.clone(),
                sealed: sealed.clone(),
                kept: sealed.clone(),
            }),
            history,
            header: ArcSwapOption::empty(),
            wanted: Arc::default(),
            asked: AtomicU64::new(0),
            served: watch::Sender::new(0),
            logs: Mutex::default(),
        });
        bearer.take(login, &sealed, &sealed);
        bearer.spawn();
        bearer
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the task ends with the token; a renewal that is under way must not end with who asked for it"
    )]
    fn spawn(self: &Arc<Self>) {
        tokio::spawn(keep_fresh(Arc::downgrade(self), Arc::clone(&self.wanted)));
    }

    /// What requests carry as `Authorization`.
    pub(in crate::upstream) fn header(&self) -> Option<HeaderValue> {
        self.header.load().as_deref().cloned()
    }

    /// The server has refused the token: it is renewed at once.
    pub(in crate::upstream) fn challenge(&self) {
        self.ask();
    }

    /// Has the token renewed, unless it is another than the one that was refused already. Whether it is another now.
    pub(in crate::upstream) async fn renewed(
        &self,
        refused: Option<&HeaderValue>,
        deadline: Deadline,
    ) -> bool {
        let is_another = || self.header.load().as_deref() != refused;
        if is_another() {
            return true;
        }
        let mut served = self.served.subscribe();
        let question = self.ask();
        let answered = served.wait_for(|served| *served >= question);
        // Whether in time or not: what counts is the token.
        let _ = tokio::time::timeout_at(deadline.instant(), answered).await;
        is_another()
    }

    /// Takes a newer login if there is one, and renews the token if that is due.
    pub(super) async fn current(&self, deadline: Deadline) {
        self.look().await;
        if !self.is_due() {
            return;
        }
        let refused = self.header();
        self.renewed(refused.as_ref(), deadline).await;
    }

    /// Keeps the token, and those that follow, out of a log.
    pub(in crate::upstream) fn redact_in(&self, log: &Arc<LogRing>) {
        let mut logs = self.logs.lock();
        logs.retain(|log| log.strong_count() > 0);
        if !logs.iter().any(|known| known.as_ptr() == Arc::as_ptr(log)) {
            logs.push(Arc::downgrade(log));
        }
        drop(logs);
        if let Some(token) = self.held.lock().login.access_token() {
            log.redact_also(token);
        }
    }

    /// Whether the token has to be renewed before it is used.
    pub(super) fn is_due(&self) -> bool {
        self.pause().is_zero()
    }

    fn ask(&self) -> u64 {
        let question = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.wanted.notify_one();
        question
    }

    fn pause(&self) -> Duration {
        let validity = self.held.lock().login.validity();
        let turn = (self.ground.standing)(&self.server).turn;
        self.history.lock().pause(validity, turn, Instant::now())
    }

    fn is_kept(&self) -> bool {
        self.held.lock().is_kept()
    }

    fn take(&self, login: Login, sealed: &SecretString, kept: &SecretString) {
        let token = login.access_token();
        let header = token.as_ref().and_then(|token| {
            let mut header = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).ok()?;
            header.set_sensitive(true);
            Some(Arc::new(header))
        });
        if let Some(token) = token {
            let logs = self.logs.lock();
            for log in logs.iter().filter_map(Weak::upgrade) {
                log.redact_also(token.clone());
            }
        }
        let id = login.id();
        *self.held.lock() = Held {
            login,
            sealed: sealed.clone(),
            kept: kept.clone(),
        };
        self.header.store(header);
        let mut history = self.history.lock();
        if history.login != id {
            *history = History::of(id);
        }
    }

    /// Does what is to be done now.
    async fn attend(&self, is_asked: bool) {
        let is_asked = match self.look().await {
            Found::Nothing => return,
            Found::Newer => false,
            Found::Known => is_asked,
        };
        if !self.is_kept() {
            self.keep().await;
        }
        let is_due = self.is_due();
        let may_be_tried = self.history.lock().until_allowed(Instant::now()) == Some(Duration::ZERO);
        if !may_be_tried || !(is_asked || is_due) {
            return;
        }
        let standing = (self.ground.standing)(&self.server);
        let is_over = {
            let validity = self.held.lock().login.validity();
            validity.is_some_and(|validity| validity.remaining.is_zero())
        };
        if is_asked || is_over {
            if self.waited_for_others(standing.turn).await {
                return;
            }
        } else if !standing.can_keep {
            // What is not kept is lost with this node, and the token is still good.
            return;
        }
        self.renew().await;
    }

    /// Whether one of the nodes that come first has renewed the token.
    async fn waited_for_others(&self, turn: u32) -> bool {
        let until = Instant::now() + TURN * turn.min(5);
        while Instant::now() < until {
            tokio::time::sleep(LOOK_EVERY).await;
            if !matches!(self.look().await, Found::Known) {
                return true;
            }
        }
        false
    }

    async fn renew(&self) {
        let login = self.held.lock().login.clone();
        let renewed = timeout(RENEW_WITHIN, self.ground.renewals.renewed(&login)).await;
        let now = Instant::now();
        match renewed {
            Ok(Ok(renewed)) => {
                let (sealed, kept) = (renewed.sealed(), self.held.lock().kept.clone());
                let id = renewed.id();
                self.take(renewed, &sealed, &kept);
                self.history.lock().renewed(id, now);
                self.keep().await;
            }
            Ok(Err(error)) => {
                tracing::warn!(server = %self.server, %error, "the login was not renewed");
                match error {
                    // There is no refresh token, or it is good no more.
                    AuthError::AuthorizationRequired | AuthError::TokenRefreshRejected(_) => {
                        self.history.lock().refused();
                    }
                    _ => self.history.lock().failed(now),
                }
                // Another node may have been faster: its refresh token is then good, and this one is not.
                self.look().await;
            }
            Err(_) => {
                tracing::warn!(server = %self.server, "the login was not renewed: no answer in time");
                self.history.lock().failed(now);
            }
        }
    }

    /// Writes the login down, in the place of what it comes from and of nothing else.
    async fn keep(&self) {
        let (sealed, kept) = {
            let held = self.held.lock();
            (held.sealed.clone(), held.kept.clone())
        };
        let written = self
            .ground
            .secrets
            .keep_login(&self.server, sealed.clone(), Some(kept));
        match written.await {
            Ok(()) => self.held.lock().kept = sealed,
            Err(failure) if failure.code == Code::WriteConflict => {
                self.look().await;
            }
            Err(failure) => {
                tracing::warn!(server = %self.server, reason = failure.reason, "the renewed login is not kept yet");
            }
        }
    }

    /// Takes what another node, or somebody who logged in, has put into the vault.
    async fn look(&self) -> Found {
        let Ok(Some(found)) = self.ground.secrets.login(&self.server).await else {
            return Found::Nothing;
        };
        let mut held = self.held.lock();
        if is_same(&found, &held.kept) {
            return Found::Known;
        }
        let Some(login) = Login::read(&found, &held.login.server_url) else {
            return Found::Nothing;
        };
        held.kept = found.clone();
        if is_same(&found, &held.sealed) {
            return Found::Known;
        }
        let (ours, theirs) = (held.login.id(), login.id());
        if theirs.lineage == ours.lineage && theirs.received_at_s < ours.received_at_s {
            // What this node got since is yet to be kept.
            return Found::Known;
        }
        drop(held);
        self.take(login, &found, &found);
        Found::Newer
    }
}

impl Drop for Bearer {
    fn drop(&mut self) {
        // The task sees that nobody holds it.
        self.wanted.notify_one();
    }
}

/// Renews the token in time for as long as somebody holds it, and stays until what it got is kept.
async fn keep_fresh(bearer: Weak<Bearer>, wanted: Arc<Notify>) {
    let mut alone_since: Option<Instant> = None;
    let mut not_kept: Option<Arc<Bearer>> = None;
    loop {
        let Some(held) = bearer.upgrade() else { return };
        let pause = held.pause().max(PAUSE_MIN);
        let pause = if not_kept.is_some() {
            KEEP_AGAIN_AFTER
        } else {
            pause
        };
        // Not held meanwhile: who waits must not keep it alive.
        drop(held);
        let _ = timeout(pause, wanted.notified()).await;
        let Some(held) = bearer.upgrade() else { return };
        let asked = held.asked.load(Ordering::SeqCst);
        let is_asked = asked > *held.served.borrow();
        held.attend(is_asked).await;
        held.served.send_replace(asked);
        not_kept = (!held.is_kept()).then(|| Arc::clone(&held));
        // This task and `not_kept`.
        let is_alone = not_kept.is_some() && Arc::strong_count(&held) <= 2;
        alone_since = if is_alone {
            alone_since.or(Some(Instant::now()))
        } else {
            None
        };
        if alone_since.is_some_and(|since| since.elapsed() > KEEP_ALONE_MAX) {
            not_kept = None;
        }
    }
}

impl Login {
    /// Which login this is, and which of its tokens.
    pub(super) fn id(&self) -> LoginId {
        LoginId {
            lineage: self.lineage,
            received_at_s: self.received_at_s(),
        }
    }
}
