//! Questions and conversations. A conversation belongs to who opened it; for everybody else it does not exist.

use std::time::Duration;

use axum::{Json, extract::State, response::IntoResponse};
use http::StatusCode;
use serde_json::{Value, json};
use troupe_actors::runtime::Deadline;
use troupe_protocol::{
    api::{AskRequest, ConversationPatch, Page, PageQuery, SayAccepted, SayRequest},
    conversation::{AskAnswer, Conversation, ConversationSummary, UserInput},
    error::Code,
    id::ConversationId,
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{ApiError, ApiJson, ApiPath, ApiQuery, ApiResult, Caller, EdgeState};

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(ask))
        .routes(routes!(list_conversations, open_conversation))
        .routes(routes!(
            show_conversation,
            change_conversation,
            delete_conversation
        ))
        .routes(routes!(say))
        .routes(routes!(cancel_turn))
}

/// Asks a question and waits for the answer.
#[utoipa::path(
    post, path = "/api/v1/ask", tag = "conversations", request_body = AskRequest,
    responses((status = 200, body = AskAnswer))
)]
async fn ask(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiJson(request): ApiJson<AskRequest>,
) -> ApiResult<Json<AskAnswer>> {
    let deadline = Deadline::within(turn_timeout(&state));
    let conversations = &state.conversations;
    let answer = conversations
        .ask(
            &request.text,
            request.conversation_id,
            &caller.principal,
            deadline,
        )
        .await?;
    Ok(Json(answer))
}

/// A turn ends before the request would, so that the caller hears how.
fn turn_timeout(state: &EdgeState) -> Duration {
    let turn = state.config.conversation.turn_timeout_ms.millis();
    let request = state.config.edge.request_timeout_ms.millis();
    turn.min(request.saturating_sub(Duration::from_millis(500)))
}

/// The caller's conversations, pinned ones first, then the latest.
#[utoipa::path(
    get, path = "/api/v1/conversations", tag = "conversations", params(PageQuery),
    responses((status = 200, body = Page<ConversationSummary>))
)]
async fn list_conversations(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiQuery(query): ApiQuery<PageQuery>,
) -> Json<Page<ConversationSummary>> {
    let mut conversations = state.conversations.list(&caller.principal);
    if let Some(search) = query.search.map(|search| search.to_lowercase()) {
        conversations.retain(|conversation| conversation.title.to_lowercase().contains(&search));
    }
    Json(Page::slice(
        conversations.into_iter(),
        query.cursor.as_deref(),
        query.limit,
    ))
}

/// Opens a conversation.
#[utoipa::path(
    post, path = "/api/v1/conversations", tag = "conversations",
    responses((status = 201, body = ConversationSummary))
)]
async fn open_conversation(State(state): State<EdgeState>, caller: Caller) -> ApiResult<impl IntoResponse> {
    let summary = state.conversations.open(&caller.principal).await?;
    Ok((StatusCode::CREATED, Json(summary)))
}

/// A conversation with its turns.
#[utoipa::path(
    get, path = "/api/v1/conversations/{id}", tag = "conversations", params(("id" = ConversationId, Path)),
    responses((status = 200, body = Conversation))
)]
async fn show_conversation(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> ApiResult<Json<Conversation>> {
    Ok(Json(
        state
            .conversations
            .get(conversation(&id)?, &caller.principal)
            .await?,
    ))
}

/// Changes title or pin.
#[utoipa::path(
    patch, path = "/api/v1/conversations/{id}", tag = "conversations", params(("id" = ConversationId, Path)),
    request_body = ConversationPatch, responses((status = 200, body = ConversationSummary))
)]
async fn change_conversation(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
    ApiJson(patch): ApiJson<ConversationPatch>,
) -> ApiResult<Json<ConversationSummary>> {
    let id = conversation(&id)?;
    let audited = state.auditing(&caller, "conversation.change", &id.to_string());
    let changed = state
        .conversations
        .change(id, patch.title, patch.pinned, &caller.principal)
        .await;
    audited.ended(&changed);
    Ok(Json(changed?))
}

/// Deletes a conversation; a running call is cancelled.
#[utoipa::path(
    delete, path = "/api/v1/conversations/{id}", tag = "conversations", params(("id" = ConversationId, Path)),
    responses((status = 204, description = "gone"))
)]
async fn delete_conversation(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> ApiResult<StatusCode> {
    let id = conversation(&id)?;
    let audited = state.auditing(&caller, "conversation.delete", &id.to_string());
    let deleted = state.conversations.delete(id, &caller.principal).await;
    audited.ended(&deleted);
    deleted?;
    Ok(StatusCode::NO_CONTENT)
}

/// Says something; the answer comes over `/api/v1/live`, topic `conversations/{id}`.
#[utoipa::path(
    post, path = "/api/v1/conversations/{id}/messages", tag = "conversations",
    params(("id" = ConversationId, Path)), request_body = SayRequest,
    responses((status = 202, body = SayAccepted))
)]
async fn say(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
    ApiJson(request): ApiJson<SayRequest>,
) -> ApiResult<impl IntoResponse> {
    let input = UserInput { text: request.text };
    let turn_id = state
        .conversations
        .say(conversation(&id)?, input, &caller.principal)
        .await?;
    Ok((StatusCode::ACCEPTED, Json(SayAccepted { turn_id })))
}

/// Cancels the running turn; says whether there was one.
#[utoipa::path(
    post, path = "/api/v1/conversations/{id}/cancel", tag = "conversations",
    params(("id" = ConversationId, Path)), responses((status = 200, body = Object))
)]
async fn cancel_turn(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> ApiResult<Json<Value>> {
    let cancelled = state
        .conversations
        .cancel(conversation(&id)?, &caller.principal)
        .await?;
    Ok(Json(json!({ "cancelled": cancelled })))
}

fn conversation(id: &str) -> ApiResult<ConversationId> {
    id.parse().map_err(|_| {
        ApiError::new(
            Code::ConversationNotFound,
            format!("there is no conversation {id:?} among yours"),
        )
    })
}
