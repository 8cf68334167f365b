//! Tokens with several holders, nodes that take turns, and a vault that does not always take what it gets. Time stands
//! still but for what is waited for.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rmcp::transport::auth::AuthError;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tokio::time::sleep;
use troupe_protocol::access::SecretTemplate;
use troupe_protocol::error::Code;
use troupe_protocol::server::ServerName;

use super::bearer::Bearer;
use super::bearers::{Bearers, Ground, Renewals, Standing};
use super::login::Login;
use crate::runtime::Deadline;
use crate::upstream::log::LogRing;
use crate::upstream::sources::{SecretFailure, SecretSource};

const URL: &str = "https://server.example/mcp";

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn login(token: &str, lineage: u64, received_at_s: u64) -> Login {
    serde_json::from_value(json!({
        "server_url": URL, "lineage": lineage, "authority": { "issuer": null, "token_endpoint": "https://as.example/token" },
        "grant": "authorization_code", "client_id": "us", "client_secret": null, "redirect_uri": "http://localhost/",
        "scopes": [],
        "credentials": {
            "client_id": "us", "granted_scopes": [], "token_received_at": received_at_s, "issuer": null,
            "token_response": { "access_token": token, "token_type": "bearer", "refresh_token": "again" },
        },
    }))
    .unwrap()
}

/// A vault that all nodes share.
#[derive(Default)]
struct Kept {
    login: Mutex<Option<SecretString>>,
    /// So often nothing can be written.
    failures: AtomicUsize,
}

impl Kept {
    fn put(&self, login: &Login) {
        *self.login.lock() = Some(login.sealed());
    }

    fn token(&self) -> Option<String> {
        let login = self.login.lock().clone()?;
        let token = Login::read(&login, URL)?.access_token()?;
        Some(token.expose_secret().to_owned())
    }
}

impl SecretSource for Kept {
    fn resolve<'a>(
        &'a self,
        _: &'a SecretTemplate,
        _: Deadline,
    ) -> BoxFuture<'a, Result<SecretString, SecretFailure>> {
        async { Ok(SecretString::from("")) }.boxed()
    }

    fn login<'a>(&'a self, _: &'a ServerName) -> BoxFuture<'a, Result<Option<SecretString>, SecretFailure>> {
        async { Ok(self.login.lock().clone()) }.boxed()
    }

    fn keep_login<'a>(
        &'a self,
        _: &'a ServerName,
        login: SecretString,
        in_place_of: Option<SecretString>,
    ) -> BoxFuture<'a, Result<(), SecretFailure>> {
        let failure = |code| SecretFailure {
            code,
            reason: "not now".to_owned(),
        };
        let fails = |failures: usize| failures.checked_sub(1);
        if self
            .failures
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails)
            .is_ok()
        {
            return async move { Err(failure(Code::NoQuorum)) }.boxed();
        }
        let mut kept = self.login.lock();
        let is_expected = match (&in_place_of, &*kept) {
            (Some(expected), Some(kept)) => expected.expose_secret() == kept.expose_secret(),
            (Some(_), None) => false,
            (None, _) => true,
        };
        if !is_expected {
            return async move { Err(failure(Code::WriteConflict)) }.boxed();
        }
        *kept = Some(login);
        async { Ok(()) }.boxed()
    }
}

/// An authorization server.
struct Authority {
    takes: Duration,
    refuses: Option<fn() -> AuthError>,
    asked: AtomicUsize,
}

impl Authority {
    fn new() -> Self {
        Self {
            takes: Duration::from_millis(100),
            refuses: None,
            asked: AtomicUsize::new(0),
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Renewals for Authority {
    fn renewed<'a>(&'a self, before: &'a Login) -> BoxFuture<'a, Result<Login, AuthError>> {
        let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        async move {
            sleep(self.takes).await;
            match self.refuses {
                Some(refusal) => Err(refusal()),
                None => Ok(login(&format!("renewed-{number}"), before.lineage, now_s())),
            }
        }
        .boxed()
    }
}

fn server() -> ServerName {
    ServerName::new("guarded").unwrap()
}

/// The tokens of a node that so many others come before.
fn node(kept: &Arc<Kept>, authority: &Arc<Authority>, turn: u32) -> Bearers {
    Bearers::on(Ground {
        secrets: Arc::clone(kept) as Arc<dyn SecretSource>,
        renewals: Arc::clone(authority) as Arc<dyn Renewals>,
        standing: Arc::new(move |_| Standing { turn, can_keep: true }),
    })
}

async fn bearer_of(node: &Bearers) -> Arc<Bearer> {
    let deadline = Deadline::within(Duration::from_secs(5));
    node.get(&server(), URL, deadline).await.unwrap().unwrap()
}

fn token_of(bearer: &Bearer) -> String {
    let header = bearer.header().unwrap();
    header
        .to_str()
        .unwrap()
        .strip_prefix("Bearer ")
        .unwrap()
        .to_owned()
}

fn logged_in(token: &str) -> Arc<Kept> {
    let kept = Arc::new(Kept::default());
    kept.put(&login(token, 1, now_s() - 100));
    kept
}

#[tokio::test(start_paused = true)]
async fn several_holders_on_several_nodes_use_a_refresh_token_once() {
    let (kept, authority) = (logged_in("first"), Arc::new(Authority::new()));
    let nodes = [0, 1, 2].map(|turn| node(&kept, &authority, turn));
    let mut bearers = Vec::new();
    for node in &nodes {
        let (one, other) = (bearer_of(node).await, bearer_of(node).await);
        assert!(Arc::ptr_eq(&one, &other), "connections of one node share a token");
        bearers.extend([one, other]);
    }
    bearers.iter().for_each(|bearer| bearer.challenge());
    sleep(Duration::from_secs(60)).await;
    assert_eq!(authority.asked(), 1);
    assert!(bearers.iter().all(|bearer| token_of(bearer) == "renewed-1"));
    assert_eq!(kept.token().as_deref(), Some("renewed-1"));
}

#[tokio::test(start_paused = true)]
async fn if_the_node_whose_turn_it_is_does_nothing_the_next_one_does() {
    let (kept, authority) = (logged_in("first"), Arc::new(Authority::new()));
    let third = node(&kept, &authority, 2);
    let bearer = bearer_of(&third).await;
    let refused = bearer.header();
    let is_renewed = bearer.renewed(refused.as_ref(), Deadline::within(Duration::from_secs(30)));
    assert!(is_renewed.await);
    assert_eq!(token_of(&bearer), "renewed-1");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_takes_the_place_of_nothing_that_was_kept_meanwhile() {
    let kept = logged_in("first");
    let authority = Arc::new(Authority {
        takes: Duration::from_secs(5),
        ..Authority::new()
    });
    let node = node(&kept, &authority, 0);
    let bearer = bearer_of(&node).await;
    bearer.challenge();
    sleep(Duration::from_secs(2)).await;
    // Somebody logs in anew, with another account.
    kept.put(&login("of somebody else", 2, now_s() - 50));
    sleep(Duration::from_secs(30)).await;
    assert_eq!(authority.asked(), 1);
    assert_eq!(kept.token().as_deref(), Some("of somebody else"));
    assert_eq!(token_of(&bearer), "of somebody else");

    // The server is removed.
    bearer.challenge();
    sleep(Duration::from_secs(2)).await;
    *kept.login.lock() = None;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(authority.asked(), 2);
    assert_eq!(kept.token(), None);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_could_not_be_kept_is_kept_later_though_nobody_holds_it_any_more() {
    let (kept, authority) = (logged_in("first"), Arc::new(Authority::new()));
    kept.failures.store(3, Ordering::SeqCst);
    let node = node(&kept, &authority, 0);
    let bearer = bearer_of(&node).await;
    bearer.challenge();
    // Long enough for the renewal to have begun, and not for its answer.
    sleep(Duration::from_millis(50)).await;
    drop(bearer);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(authority.asked(), 1);
    assert_eq!(kept.token().as_deref(), Some("renewed-1"));
}

#[tokio::test(start_paused = true)]
async fn what_the_authorization_server_refuses_for_good_is_not_asked_again() {
    let kept = logged_in("first");
    let authority = Arc::new(Authority {
        refuses: Some(|| AuthError::TokenRefreshRejected("invalid_grant".to_owned())),
        ..Authority::new()
    });
    let node = node(&kept, &authority, 0);
    for _ in 0..20 {
        // Connections that are made again and again, too.
        let bearer = bearer_of(&node).await;
        bearer.challenge();
        sleep(Duration::from_secs(120)).await;
    }
    assert_eq!(authority.asked(), 1);

    let bearer = bearer_of(&node).await;
    kept.put(&login("second", 2, now_s()));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(token_of(&bearer), "second", "a new login is found");
}

#[tokio::test(start_paused = true)]
async fn an_authorization_server_that_is_down_is_asked_less_and_less_often() {
    let kept = logged_in("first");
    let authority = Arc::new(Authority {
        refuses: Some(|| AuthError::TokenRefreshFailed("503".to_owned())),
        ..Authority::new()
    });
    let node = node(&kept, &authority, 0);
    let bearer = bearer_of(&node).await;
    for _ in 0..3_600 {
        bearer.challenge();
        sleep(Duration::from_secs(1)).await;
    }
    let asked = authority.asked();
    assert!((5..=20).contains(&asked), "asked {asked} times within an hour");
}

#[tokio::test(start_paused = true)]
async fn no_token_appears_in_a_log_nor_one_that_came_later() {
    let (kept, authority) = (logged_in("the-first-one"), Arc::new(Authority::new()));
    let node = node(&kept, &authority, 0);
    let bearer = bearer_of(&node).await;
    let log = Arc::new(LogRing::default());
    bearer.redact_in(&log);
    bearer.challenge();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(log.clean("the-first-one, renewed-1"), "[secret], [secret]");
}
