//! Logins at a real authorization server: discovery, registration, PKCE, refresh with rotating tokens.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use troupe_protocol::error::Code;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::server::Transport;
use troupe_protocol::upstream::{LoginGrant, ServerLogin};

use super::bed::*;
use crate::runtime::testkit;
use crate::upstream::LoginError;

const REDIRECT_URI: &str = "http://127.0.0.1:7500/api/v1/oauth/callback";

/// An MCP server that asks for tokens, and the authorization server that gives them.
struct Guarded {
    origin: String,
    /// How long tokens are good, in seconds.
    lifetime_s: u64,
    numbers: AtomicUsize,
    /// The token that the server admits.
    admitted: Mutex<String>,
    refresh: Mutex<String>,
    /// The challenge and client of each code.
    codes: Mutex<HashMap<String, (String, String)>>,
    refreshed: AtomicUsize,
    registered: AtomicUsize,
    /// Whether it names another place for tokens, and how often that was asked.
    has_moved: AtomicBool,
    /// How often somebody has found that out.
    told_elsewhere: AtomicUsize,
    asked_elsewhere: AtomicUsize,
}

struct Running {
    guarded: Arc<Guarded>,
    url: String,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Fields = BTreeMap<String, String>;

async fn serve(lifetime_s: u64) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let guarded = Arc::new(Guarded {
        origin: origin.clone(),
        lifetime_s,
        numbers: AtomicUsize::new(1),
        admitted: Mutex::new("nobody".to_owned()),
        refresh: Mutex::default(),
        codes: Mutex::default(),
        refreshed: AtomicUsize::new(0),
        registered: AtomicUsize::new(0),
        has_moved: AtomicBool::new(false),
        told_elsewhere: AtomicUsize::new(0),
        asked_elsewhere: AtomicUsize::new(0),
    });
    let app = Router::new()
        .route("/mcp", post(answer))
        .route("/.well-known/oauth-protected-resource/mcp", get(resource))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .route("/register", post(register))
        .route("/authorize", get(authorize))
        .route("/token", post(token))
        .route("/elsewhere", post(elsewhere))
        .with_state(Arc::clone(&guarded));
    let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let url = format!("{origin}/mcp");
    Running { guarded, url, task }
}

async fn resource(State(guarded): State<Arc<Guarded>>) -> Json<Value> {
    let origin = &guarded.origin;
    Json(
        json!({ "resource": format!("{origin}/mcp"), "authorization_servers": [origin], "scopes_supported": ["tools"] }),
    )
}

async fn elsewhere(State(guarded): State<Arc<Guarded>>) -> StatusCode {
    guarded.asked_elsewhere.fetch_add(1, Ordering::SeqCst);
    StatusCode::BAD_REQUEST
}

async fn metadata(State(guarded): State<Arc<Guarded>>) -> Json<Value> {
    let at = |path: &str| format!("{}{path}", guarded.origin);
    let token_endpoint = if guarded.has_moved.load(Ordering::SeqCst) {
        guarded.told_elsewhere.fetch_add(1, Ordering::SeqCst);
        at("/elsewhere")
    } else {
        at("/token")
    };
    Json(json!({
        "issuer": guarded.origin, "authorization_endpoint": at("/authorize"), "token_endpoint": token_endpoint,
        "registration_endpoint": at("/register"), "response_types_supported": ["code"],
        "code_challenge_methods_supported": ["S256"], "authorization_response_iss_parameter_supported": true,
        "token_endpoint_auth_methods_supported": ["client_secret_post", "none"],
    }))
}

async fn register(State(guarded): State<Arc<Guarded>>, Json(wanted): Json<Value>) -> Response {
    guarded.registered.fetch_add(1, Ordering::SeqCst);
    let client = json!({ "client_id": "registered", "redirect_uris": wanted["redirect_uris"], "client_name": wanted["client_name"] });
    (StatusCode::CREATED, Json(client)).into_response()
}

/// The person agrees at once.
async fn authorize(State(guarded): State<Arc<Guarded>>, Query(query): Query<Fields>) -> Response {
    assert_eq!(query["code_challenge_method"], "S256");
    assert_eq!(query["resource"], format!("{}/mcp", guarded.origin));
    assert_eq!(query["scope"], "tools");
    let code = format!("code{}", guarded.numbers.fetch_add(1, Ordering::SeqCst));
    let kept = (query["code_challenge"].clone(), query["client_id"].clone());
    guarded.codes.lock().insert(code.clone(), kept);
    let (back, state, issuer) = (&query["redirect_uri"], &query["state"], &guarded.origin);
    Redirect::to(&format!("{back}?code={code}&state={state}&iss={issuer}")).into_response()
}

async fn token(
    State(guarded): State<Arc<Guarded>>,
    headers: HeaderMap,
    Form(form): Form<Fields>,
) -> Response {
    let refused = || (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" }))).into_response();
    match form["grant_type"].as_str() {
        "authorization_code" => {
            let Some((challenge, client)) = guarded.codes.lock().remove(&form["code"]) else {
                return refused();
            };
            let verifier: [u8; 32] = Sha256::digest(&form["code_verifier"]).into();
            if URL_SAFE_NO_PAD.encode(verifier) != challenge || form.get("client_id") != Some(&client) {
                return refused();
            }
        }
        "refresh_token" => {
            if form["refresh_token"] != *guarded.refresh.lock() {
                return refused();
            }
            guarded.refreshed.fetch_add(1, Ordering::SeqCst);
        }
        "client_credentials" => {
            let basic = format!("Basic {}", STANDARD.encode("robot:hush"));
            let by_header = headers
                .get("authorization")
                .is_some_and(|value| value.as_bytes() == basic.as_bytes());
            let by_body = form.get("client_id").map(String::as_str) == Some("robot")
                && form.get("client_secret").map(String::as_str) == Some("hush");
            if !by_header && !by_body {
                return refused();
            }
        }
        _ => return refused(),
    }
    let number = guarded.numbers.fetch_add(1, Ordering::SeqCst);
    *guarded.admitted.lock() = format!("token{number}");
    *guarded.refresh.lock() = format!("refresh{number}");
    Json(json!({
        "access_token": format!("token{number}"), "refresh_token": format!("refresh{number}"),
        "token_type": "bearer", "expires_in": guarded.lifetime_s,
    }))
    .into_response()
}

/// The MCP server, legacy and without sessions.
async fn answer(
    State(guarded): State<Arc<Guarded>>,
    headers: HeaderMap,
    Json(message): Json<Value>,
) -> Response {
    let wanted = format!("Bearer {}", guarded.admitted.lock());
    if headers.get("authorization").map(|value| value.as_bytes()) != Some(wanted.as_bytes()) {
        let challenge = format!(
            r#"Bearer error="invalid_token", resource_metadata="{}/.well-known/oauth-protected-resource/mcp""#,
            guarded.origin
        );
        return (StatusCode::UNAUTHORIZED, [("www-authenticate", challenge)]).into_response();
    }
    let result = match message["method"].as_str().unwrap_or_default() {
        "initialize" => json!({
            "protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "guarded", "version": "1"},
        }),
        "tools/call" => json!({ "content": [{ "type": "text", "text": "in" }] }),
        "server/discover" => {
            let error = json!({ "code": -32601, "message": "no" });
            return Json(json!({ "jsonrpc": "2.0", "id": message["id"], "error": error })).into_response();
        }
        _ if message["id"].is_null() => return StatusCode::ACCEPTED.into_response(),
        _ => json!({}),
    };
    Json(json!({ "jsonrpc": "2.0", "id": message["id"], "result": result })).into_response()
}

fn register_at(bed: &Bed, server: &Running) {
    let transport = Transport::StreamableHttp {
        url: server.url.clone(),
        headers: BTreeMap::new(),
    };
    bed.register("guarded", transport);
}

/// Goes where a person would be sent, and comes back with what the authorization server says.
async fn agree(url: &str) -> Fields {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let browser = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .unwrap();
    let answer = browser.get(url).send().await.unwrap();
    let back = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(back.starts_with(REDIRECT_URI), "{back}");
    let back = url::Url::parse(&back).unwrap();
    back.query_pairs().into_owned().collect()
}

async fn log_in(bed: &Bed) {
    let started = bed
        .upstreams
        .start_login(&name("guarded"), ServerLogin::default(), REDIRECT_URI)
        .await;
    let back = agree(&started.unwrap().url.unwrap()).await;
    let completed = bed
        .upstreams
        .complete_login(&back["state"], &back["code"], Some(&back["iss"]))
        .await;
    assert_eq!(completed.unwrap(), name("guarded"));
}

#[tokio::test]
async fn a_person_logs_in_and_calls_are_admitted() {
    let (bed, server) = (Bed::new().await, serve(3_600).await);
    register_at(&bed, &server);
    let error = bed.call("guarded", "x").await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamNeedsLogin, "{error}");
    assert!(
        error.to_string().contains("troupe server login guarded"),
        "{error}"
    );
    assert_eq!(
        bed.upstreams
            .login_state(&name("guarded"))
            .await
            .unwrap()
            .received_at_s,
        None
    );

    log_in(&bed).await;
    assert_eq!(text(&bed.call("guarded", "x").await.unwrap()), "in");
    assert_eq!(server.guarded.registered.load(Ordering::SeqCst), 1);
    assert!(
        bed.upstreams
            .login_state(&name("guarded"))
            .await
            .unwrap()
            .received_at_s
            .is_some()
    );

    // A token that the server takes back is renewed, and the calls after that are admitted.
    *server.guarded.admitted.lock() = "another".to_owned();
    let error = bed.call("guarded", "x").await.unwrap_err();
    assert_eq!(error.code(), Code::UpstreamNeedsLogin, "{error}");
    let refreshed = || server.guarded.refreshed.load(Ordering::SeqCst) == 1;
    testkit::eventually(testkit::PATIENCE, refreshed).await.unwrap();
    assert_eq!(text(&admitted(&bed).await), "in");
}

/// The answer to the first call that is admitted: between the server's new token and its use here lies a moment.
async fn admitted(bed: &Bed) -> RawReply {
    let calling = async {
        loop {
            if let Ok(reply) = bed.call("guarded", "x").await {
                return reply;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(testkit::PATIENCE, calling).await.unwrap()
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends() {
    // When three quarters of that are over, and then after the ten seconds that are the least.
    let (bed, server) = (Bed::new().await, serve(8).await);
    register_at(&bed, &server);
    log_in(&bed).await;
    bed.call("guarded", "x").await.unwrap();
    let refreshed = || server.guarded.refreshed.load(Ordering::SeqCst) >= 2;
    testkit::eventually(testkit::PATIENCE, refreshed).await.unwrap();
    assert_eq!(text(&admitted(&bed).await), "in", "the refresh token rotates");
}

#[tokio::test]
async fn a_token_that_is_refused_while_connecting_is_renewed() {
    let (bed, server) = (Bed::new().await, serve(3_600).await);
    register_at(&bed, &server);
    log_in(&bed).await;
    // Nothing is connected yet, and the token says that it is good for an hour.
    *server.guarded.admitted.lock() = "another".to_owned();
    assert_eq!(text(&bed.call("guarded", "x").await.unwrap()), "in");
    assert_eq!(server.guarded.refreshed.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn what_a_login_gave_is_sent_to_no_other_authorization_server() {
    let (bed, server) = (Bed::new().await, serve(3_600).await);
    register_at(&bed, &server);
    log_in(&bed).await;
    bed.call("guarded", "x").await.unwrap();
    server.guarded.has_moved.store(true, Ordering::SeqCst);
    *server.guarded.admitted.lock() = "another".to_owned();
    bed.call("guarded", "x").await.unwrap_err();
    let renewing = || server.guarded.told_elsewhere.load(Ordering::SeqCst) >= 1;
    testkit::eventually(testkit::PATIENCE, renewing).await.unwrap();
    // Whoever tries the server out waits for the renewal that is under way, and is refused with its token.
    let transport = Transport::StreamableHttp {
        url: server.url.clone(),
        headers: BTreeMap::new(),
    };
    let trial = bed.upstreams.try_out(&name("guarded"), &transport, soon()).await;
    assert_eq!(trial.outcome.unwrap_err().code(), Code::UpstreamNeedsLogin);
    assert_eq!(server.guarded.refreshed.load(Ordering::SeqCst), 0);
    assert_eq!(server.guarded.asked_elsewhere.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_logs_in_by_its_own_credentials() {
    let (bed, server) = (Bed::new().await, serve(3_600).await);
    register_at(&bed, &server);
    let with_secret = |secret: &str| ServerLogin {
        grant: LoginGrant::ClientCredentials,
        client_id: Some("robot".to_owned()),
        client_secret: Some(secret.into()),
        ..ServerLogin::default()
    };
    let wrong = bed
        .upstreams
        .start_login(&name("guarded"), with_secret("guess"), REDIRECT_URI)
        .await;
    assert!(matches!(wrong, Err(LoginError::Refused { .. })), "{wrong:?}");
    let started = bed
        .upstreams
        .start_login(&name("guarded"), with_secret("hush"), REDIRECT_URI)
        .await;
    assert_eq!(started.unwrap().url, None);
    assert_eq!(text(&bed.call("guarded", "x").await.unwrap()), "in");
}

#[tokio::test]
async fn a_login_is_completed_once_and_only_by_its_own_authorization_server() {
    let (bed, server) = (Bed::new().await, serve(3_600).await);
    register_at(&bed, &server);
    let complete = |state: String, code: String, issuer: String| {
        let upstreams = bed.upstreams.clone();
        async move { upstreams.complete_login(&state, &code, Some(&issuer)).await }
    };
    let started = bed
        .upstreams
        .start_login(&name("guarded"), ServerLogin::default(), REDIRECT_URI)
        .await;
    let back = agree(&started.unwrap().url.unwrap()).await;
    let (state, code, issuer) = (back["state"].clone(), back["code"].clone(), back["iss"].clone());
    let forged = complete(
        state.clone(),
        code.clone(),
        "https://elsewhere.example".to_owned(),
    )
    .await;
    assert!(matches!(forged, Err(LoginError::Refused { .. })), "{forged:?}");
    let unknown = complete("unknown".to_owned(), code.clone(), issuer.clone()).await;
    assert_eq!(unknown, Err(LoginError::NotBegun));
    let completed = complete(state.clone(), code.clone(), issuer.clone()).await;
    assert_eq!(completed, Ok(name("guarded")), "the forged answer did not end it");
    assert_eq!(complete(state, code, issuer).await, Err(LoginError::NotBegun));
}
