//! The cluster: who belongs to it, and what operators do to its members.

use axum::{Json, extract::State, response::IntoResponse};
use http::StatusCode;
use secrecy::ExposeSecret;
use serde::Deserialize;
use troupe_protocol::{
    api::{ClusterCounts, Invitation, MemberCommand, MemberCommandRequest, Severity, Warning},
    cluster::{ClusterStatus, ClusterWarning, Member, MemberState},
    error::Code,
};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::edge::{
    ApiError, ApiPath, ApiQuery, ApiResult, Caller, EdgeState, everywhere, extract::OptionalJson,
};

pub fn routes() -> OpenApiRouter<EdgeState> {
    OpenApiRouter::new()
        .routes(routes!(show_cluster))
        .routes(routes!(invite))
        .routes(routes!(command_member))
        .routes(routes!(remove_member))
}

/// The members, how this node reaches them, how far its log is, and what to look at.
#[utoipa::path(get, path = "/api/v1/cluster", tag = "cluster", responses((status = 200, body = ClusterStatus)))]
async fn show_cluster(State(state): State<EdgeState>) -> Json<ClusterStatus> {
    Json(state.cluster.status().await)
}

/// Makes a join string: with it one other machine can join the cluster, once. It is told only here.
#[utoipa::path(
    post, path = "/api/v1/cluster/invitations", tag = "cluster", responses((status = 201, body = Invitation))
)]
async fn invite(State(state): State<EdgeState>, caller: Caller) -> ApiResult<impl IntoResponse> {
    let audited = state.auditing(&caller, "node.invite", "");
    let made = state.cluster.invite(state.work_deadline()).await;
    audited.ended(&made);
    let invitation = made?;
    Ok((
        StatusCode::CREATED,
        Json(Invitation {
            join: invitation.join.expose_secret().to_owned(),
            expires_in_ms: invitation.expires_in.as_millis() as u64,
        }),
    ))
}

/// Drains a member (it hands over its placed actors and takes no more) or ends that, or changes whether it votes.
#[utoipa::path(
    post, path = "/api/v1/cluster/members/{id}/{command}", tag = "cluster",
    params(
        ("id" = String, Path, description = "the member's name or id"),
        ("command" = String, Path, description = "drain, undrain, promote or demote"),
    ),
    request_body = MemberCommandRequest,
    responses((status = 200, body = ClusterStatus))
)]
async fn command_member(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath((id, command)): ApiPath<(String, String)>,
    OptionalJson(request): OptionalJson<MemberCommandRequest>,
) -> ApiResult<Json<ClusterStatus>> {
    let command: MemberCommand = command.parse().map_err(|_| {
        let detail = format!("no command {command:?}; allowed: drain, undrain, promote, demote");
        ApiError::new(Code::NotFound, detail)
    })?;
    let member = everywhere::member(&state, &id)?;
    if matches!(command, MemberCommand::Drain | MemberCommand::Demote) {
        require_confirmation(request.confirm.as_deref(), &member, &command.to_string())?;
    }
    let (cluster, within) = (&state.cluster, state.work_deadline());
    let audited = state.auditing(&caller, format!("node.{command}"), member.name.as_str());
    let done = match command {
        MemberCommand::Drain => cluster.drain(member.id, within).await,
        MemberCommand::Undrain => cluster.undrain(member.id, within).await,
        MemberCommand::Promote => cluster.promote(member.id, within).await,
        MemberCommand::Demote => cluster.demote(member.id, within).await,
    };
    audited.ended(&done);
    done?;
    Ok(Json(state.cluster.status().await))
}

/// Confirms what cannot be taken back.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RemoveQuery {
    /// The member's name.
    confirm: Option<String>,
}

/// Removes a member for good: no other node speaks with it any more, and it can join again only with a fresh data folder.
/// For machines that are trusted or destroyed: one in foreign hands still has the cluster's keys, and only a new cluster
/// has others.
#[utoipa::path(
    delete, path = "/api/v1/cluster/members/{id}", tag = "cluster",
    params(("id" = String, Path, description = "the member's name or id"), RemoveQuery),
    responses((status = 204, description = "removed"))
)]
async fn remove_member(
    State(state): State<EdgeState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
    ApiQuery(query): ApiQuery<RemoveQuery>,
) -> ApiResult<StatusCode> {
    let member = everywhere::member(&state, &id)?;
    require_confirmation(query.confirm.as_deref(), &member, "removing it")?;
    let audited = state.auditing(&caller, "node.remove", member.name.as_str());
    let done = state.cluster.remove(member.id, state.work_deadline()).await;
    audited.ended(&done);
    done?;
    Ok(StatusCode::NO_CONTENT)
}

fn require_confirmation(given: Option<&str>, member: &Member, what: &str) -> ApiResult<()> {
    if given == Some(member.name.as_str()) {
        return Ok(());
    }
    let detail = format!(
        "{what} takes the member out of its work; send its name {:?} as `confirm`",
        member.name.as_str()
    );
    Err(ApiError::new(Code::ConfirmationMissing, detail))
}

/// The cluster in figures.
pub fn counts_of(status: &ClusterStatus) -> ClusterCounts {
    let up = status
        .members
        .iter()
        .filter(|known| known.member.state != MemberState::Down);
    ClusterCounts {
        members: status.members.len() as u32,
        members_up: up.count() as u32,
        has_quorum: status.has_quorum,
    }
}

/// The cluster's warnings as the node's status has them, worst first.
pub fn warnings_of(status: &ClusterStatus) -> Vec<Warning> {
    let name_of = |node| {
        let mut members = status.members.iter().map(|known| &known.member);
        members
            .find(|member| member.id == node)
            .map_or_else(|| node.to_string(), |member| member.name.to_string())
    };
    let warn = |code: &str, severity, text: String| Warning {
        code: code.to_owned(),
        severity,
        text,
        subject: String::new(),
    };
    let mut warnings: Vec<Warning> = status
        .warnings
        .iter()
        .map(|warning| match warning {
            ClusterWarning::NoQuorum => warn(
                "no_quorum",
                Severity::Error,
                "degraded: no majority of the voters is reached; writes are refused and placed actors stand still"
                    .to_owned(),
            ),
            ClusterWarning::LogStopped { reason } => warn(
                "log_stopped",
                Severity::Error,
                format!("degraded: the log of this node has stopped until the node is started again: {reason}"),
            ),
            ClusterWarning::Isolated => warn(
                "isolated",
                Severity::Error,
                "degraded: this node does not reach the majority of the voters".to_owned(),
            ),
            ClusterWarning::UnderReplicated {
                voters_up,
                voters_wanted,
            } => warn(
                "under_replicated",
                Severity::Warning,
                format!("{voters_up} voters are up; there should be {voters_wanted}"),
            ),
            ClusterWarning::ClockSkew { node, skew_ms } => warn(
                "clock_skew",
                Severity::Warning,
                format!("the clock of {} differs by {skew_ms} ms", name_of(*node)),
            ),
            ClusterWarning::VersionSkew { versions } => warn(
                "version_skew",
                Severity::Info,
                format!("nodes run different versions: {}", versions.join(", ")),
            ),
            ClusterWarning::MemberDown { node } => warn(
                "member_down",
                Severity::Warning,
                format!("{} is not heard of", name_of(*node)),
            ),
        })
        .collect();
    warnings.sort_by_key(|warning| std::cmp::Reverse(warning.severity));
    warnings
}
