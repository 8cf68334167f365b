//! One request to a server, and what the server wants of the client before it answers.
//!
//! A modern server that wants something answers that input is required; for a legacy client the input is gathered here
//! and the request made again ([`super::input`]). A legacy server asks in the middle of the call; a legacy client is
//! asked the same on the call's stream.

use std::pin::pin;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use troupe_protocol::jsonrpc::{RawMessage, RawReply};
use troupe_protocol::mcp::{Era, Profile};
use troupe_protocol::server::ServerName;

use super::bridge;
use super::gateway::{Client, ClientRequest, Gateway};
use super::input::{self, INPUT_ROUNDS_MAX};
use super::refusal::Refusal;
use super::session::Session;
use crate::upstream::{CallOptions, Question, QuestionsTo, UpstreamError, UpstreamHandle};

/// Questions of one call that wait to be put to the client; further ones are refused.
const QUESTIONS_WAITING_MAX: usize = 16;

/// A request on its way.
struct Exchange<'a> {
    server: &'a ServerName,
    upstream: &'a UpstreamHandle,
    client: &'a Client,
    method: &'a str,
    session: &'a Session,
    to_client: &'a mpsc::Sender<RawMessage>,
}

impl Gateway {
    /// Makes a request, and has the client give what the server wants for it.
    pub(super) async fn exchange(
        &self,
        server: &ServerName,
        upstream: &UpstreamHandle,
        request: ClientRequest,
    ) -> Result<RawReply, Refusal> {
        let ClientRequest {
            client,
            method,
            params,
            notifications,
            session,
            ..
        } = request;
        let (Some(session), Era::Legacy) = (session, client.era) else {
            let options = self.options(server, &client, notifications);
            return Ok(upstream.request(&method, params, options).await?);
        };
        let profile = Profile::of(&client.capabilities);
        let upstreams = &self.parts.upstreams;
        let upstream = upstreams
            .for_clients(upstream.clone(), profile, self.deadline(server))
            .await?;
        let Some(to_client) = &notifications else {
            let options = self.options(server, &client, None);
            return Ok(upstream.request(&method, params, options).await?);
        };
        let exchange = Exchange {
            server,
            upstream: &upstream,
            client: &client,
            method: &method,
            session: &session,
            to_client,
        };
        match upstream.info().era {
            Era::Modern => self.in_rounds(&exchange, params).await,
            Era::Legacy => Ok(self.with_questions(&exchange, params, profile).await?),
        }
    }

    /// Makes a request of a modern server, and makes it again with the client's input as often as the server wants some.
    async fn in_rounds(
        &self,
        exchange: &Exchange<'_>,
        mut params: Option<Box<RawValue>>,
    ) -> Result<RawReply, Refusal> {
        let Exchange {
            server,
            upstream,
            client,
            method,
            session,
            to_client,
        } = *exchange;
        params = bridge::with_log_level(params, session.log_level());
        for _ in 0..INPUT_ROUNDS_MAX {
            let options = self.options(server, client, Some(to_client.clone()));
            let reply = upstream.request(method, params.clone(), options).await?;
            match &reply {
                RawReply::Result(result) if bridge::wants_input(result) => {
                    params =
                        Some(input::gather(server, session, to_client, params.as_deref(), result).await?);
                }
                _ => return Ok(reply),
            }
        }
        let reason = format!("it asked {INPUT_ROUNDS_MAX} times");
        Err(Refusal::InputRefused {
            server: server.clone(),
            reason,
        })
    }

    /// Makes a request of a legacy server, and puts to the client what the server asks meanwhile.
    async fn with_questions(
        &self,
        exchange: &Exchange<'_>,
        params: Option<Box<RawValue>>,
        profile: Profile,
    ) -> Result<RawReply, UpstreamError> {
        let (sender, mut questions) = mpsc::channel(QUESTIONS_WAITING_MAX);
        let progress = Some(exchange.to_client.clone());
        let options = CallOptions {
            questions: (!profile.is_none()).then_some(QuestionsTo { profile, sender }),
            ..self.options(exchange.server, exchange.client, progress)
        };
        let mut request = pin!(exchange.upstream.request(exchange.method, params, options));
        let mut asking = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                reply = &mut request => return reply,
                Some(question) = questions.recv() => {
                    asking.push(put(exchange.session, exchange.to_client, question));
                }
                Some(()) = asking.next(), if !asking.is_empty() => {}
            }
        }
    }
}

/// Puts a question to the client and gives the server the answer, whatever it is.
async fn put(session: &Session, to_client: &mpsc::Sender<RawMessage>, question: Question) {
    let answer = input::ask_client(session, to_client, &question.method, question.params.as_deref()).await;
    match answer {
        Ok(reply) => question.answer(&reply),
        Err(reason) => question.fail(&reason),
    }
}
