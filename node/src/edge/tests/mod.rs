//! The whole edge on a real node in this process: real store, real actors, real sockets where it matters.

#![allow(clippy::unwrap_used)]

mod access;
mod api;
mod peers;
mod wire;

use std::time::Duration;

use axum::{Router, body::Body};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tower::ServiceExt;
use troupe_actors::runtime::Deadline;
use troupe_protocol::error::Problem;

use crate::{
    config::{Config, NameChoice},
    tree::Node,
};

struct Bed {
    node: Node,
    router: Router,
    key: String,
    host: String,
    _folder: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: http::HeaderMap,
    text: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }

    fn problem(&self, status: u16, code: &str) -> Problem {
        assert_eq!(
            self.headers[header::CONTENT_TYPE],
            "application/problem+json",
            "{}",
            self.text
        );
        let problem: Problem = serde_json::from_str(&self.text).unwrap();
        assert_eq!(
            (self.status.as_u16(), problem.code.as_str()),
            (status, code),
            "{}",
            self.text
        );
        assert_eq!(problem.status, status);
        assert_eq!(
            problem.correlation_id.unwrap().to_string(),
            self.headers["x-correlation-id"].to_str().unwrap()
        );
        problem
    }
}

impl Bed {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start(change, None).await
    }

    /// A second node, in the cluster of this one.
    async fn joined(&self) -> Self {
        let within = Deadline::within(Duration::from_secs(20));
        let invited = self.node.state.cluster.invite(within).await.unwrap();
        Self::start(|_| {}, Some(invited.join)).await
    }

    async fn start(change: impl FnOnce(&mut Config), join: Option<SecretString>) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.node.data = folder.path().join("data").display().to_string();
        config.node.name = NameChoice::parse(if join.is_some() { "second" } else { "first" }).unwrap();
        config.edge.listen = "127.0.0.1:0".parse().unwrap();
        change(&mut config);
        let node = Node::start(config, join).await.unwrap();
        let key = node.first_start.as_ref().unwrap().key.expose_secret().to_owned();
        let host = node.state.config.edge.listen.to_string();
        Self {
            router: super::router(node.state.clone()),
            node,
            key,
            host,
            _folder: folder,
        }
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host);
        request.header(header::AUTHORIZATION, format!("Bearer {}", self.key))
    }

    fn bare(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path).body(Body::empty()).unwrap())
            .await
    }

    async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path).body(Body::empty()).unwrap())
            .await
    }

    async fn post(&self, path: &str, body: impl Into<Body>) -> Answer {
        let request = self
            .request(Method::POST, path)
            .header(header::CONTENT_TYPE, "application/json");
        self.send(request.body(body.into()).unwrap()).await
    }
}
