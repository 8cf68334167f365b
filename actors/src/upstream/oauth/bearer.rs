//! The token that a connection's requests carry, kept fresh for as long as the connection lives.

use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use reqwest::header::HeaderValue;
use secrecy::ExposeSecret;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use troupe_protocol::server::ServerName;

use crate::upstream::sources::{SecretFailure, SecretSource};

use super::login::Login;

/// A token is renewed at the latest so long before it expires.
const RENEW_BEFORE: Duration = Duration::from_secs(60);
/// And at the earliest so long before that: nodes draw their moments within this.
const RENEW_SPREAD: Duration = Duration::from_secs(30);
/// The pause after a renewal that failed.
const AGAIN_AFTER: Duration = Duration::from_secs(15);
/// How long a renewal may take.
const RENEW_WITHIN: Duration = Duration::from_secs(45);

/// The token of one connection. Reading it costs no hop.
pub struct Bearer {
    server: ServerName,
    secrets: Arc<dyn SecretSource>,
    login: Mutex<Login>,
    header: ArcSwapOption<HeaderValue>,
    /// The server has refused the token.
    challenged: Arc<Notify>,
    renewing: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// The token for a server at this address; nothing when nobody has logged in there. One that is about to expire is renewed
/// first.
pub(in crate::upstream) async fn bearer_for(
    server: &ServerName,
    server_url: &str,
    secrets: &Arc<dyn SecretSource>,
) -> Result<Option<Arc<Bearer>>, SecretFailure> {
    let kept = secrets.login(server).await?;
    let Some(login) = kept.and_then(|sealed| Login::read(&sealed, server_url)) else {
        return Ok(None);
    };
    let bearer = Arc::new(Bearer {
        server: server.clone(),
        secrets: Arc::clone(secrets),
        login: Mutex::new(login.clone()),
        header: ArcSwapOption::empty(),
        challenged: Arc::default(),
        renewing: Mutex::default(),
    });
    bearer.take(login.clone());
    if login
        .remaining()
        .is_some_and(|remaining| remaining < RENEW_BEFORE)
    {
        // If it fails the old one may still do; the server says so otherwise.
        bearer.renew().await;
    }
    bearer.start();
    Ok(Some(bearer))
}

impl Bearer {
    /// What requests carry as `Authorization`.
    pub(in crate::upstream) fn header(&self) -> Option<HeaderValue> {
        self.header.load().as_deref().cloned()
    }

    /// The server has refused the token: it is renewed at once.
    pub(in crate::upstream) fn challenge(&self) {
        self.challenged.notify_one();
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the task is owned by the token and ends with it"
    )]
    fn start(self: &Arc<Self>) {
        let renewing = tokio::spawn(keep_fresh(Arc::downgrade(self)));
        *self.renewing.lock() = Some(AbortOnDropHandle::new(renewing));
    }

    fn take(&self, login: Login) {
        let header = login.access_token().and_then(|token| {
            let mut header = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).ok()?;
            header.set_sensitive(true);
            Some(Arc::new(header))
        });
        self.header.store(header);
        *self.login.lock() = login;
    }

    /// Takes what another node has renewed, or renews the token. Whether there is a new one.
    async fn renew(&self) -> bool {
        let login = self.login.lock().clone();
        if self.take_newer(&login).await {
            return true;
        }
        let renewed = tokio::time::timeout(RENEW_WITHIN, login.renewed()).await;
        let renewed = match renewed {
            Ok(Ok(renewed)) => renewed,
            Ok(Err(error)) => {
                tracing::warn!(server = %self.server, %error, "the login was not renewed");
                // Another node may have been faster: its refresh token is then good, and this one is not.
                return self.take_newer(&login).await;
            }
            Err(_) => return false,
        };
        if let Err(SecretFailure { reason, .. }) =
            self.secrets.keep_login(&self.server, renewed.sealed()).await
        {
            tracing::warn!(server = %self.server, reason, "the renewed login was not kept");
        }
        self.take(renewed);
        true
    }

    async fn take_newer(&self, login: &Login) -> bool {
        let kept = self.secrets.login(&self.server).await.ok().flatten();
        let kept = kept.and_then(|sealed| Login::read(&sealed, &login.server_url));
        match kept.filter(|kept| kept.received_at_s() > login.received_at_s()) {
            Some(newer) => {
                self.take(newer);
                true
            }
            None => false,
        }
    }
}

/// Renews the token in time, for as long as somebody holds it.
async fn keep_fresh(bearer: Weak<Bearer>) {
    let mut failed = false;
    loop {
        let Some(held) = bearer.upgrade() else { return };
        let remaining = held.login.lock().remaining();
        let due = remaining.map(|remaining| {
            let spread = RENEW_SPREAD.min(remaining / 4).mul_f64(fastrand::f64());
            remaining.saturating_sub(RENEW_BEFORE + spread)
        });
        // A token that says nothing of its end lasts until it is refused.
        let pause = match due {
            _ if failed => AGAIN_AFTER,
            Some(due) => due.max(Duration::from_secs(1)),
            None => Duration::from_secs(24 * 3_600),
        };
        // Not held meanwhile: who waits must not keep it alive.
        let challenged = Arc::clone(&held.challenged);
        drop(held);
        let is_challenged = tokio::time::timeout(pause, challenged.notified()).await.is_ok();
        let Some(held) = bearer.upgrade() else { return };
        if due.is_some() || is_challenged || failed {
            failed = !held.renew().await;
        }
    }
}
