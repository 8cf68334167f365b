//! How newcomers are invited and let in.
//!
//! An invitation is a replicated record under the hash of its token. Whoever lets a newcomer in writes it into the record,
//! guarded by its version, so that a token works for one node in the whole cluster; then the newcomer becomes a member. The
//! record stays until it expires: a newcomer that was not told, or could not be made a member, may come again with it and
//! with the key that it had then; nobody else can. It goes with the member when that is removed.
//!
//! Who has no token that is good learns nothing: what the cluster knows is looked at only behind the token.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use troupe_protocol::cluster::frame::{ClusterTiming, WIRE_VERSION_MAX, WIRE_VERSION_MIN};
use troupe_protocol::cluster::{Member, MemberState, Role};
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::NodeId;
use troupe_protocol::time::Timestamp;

use super::identity::{
    Applicant, ClusterIdentity, EnrolDesk, EnrolGrant, INVITATION_VALID_FOR, KeyFingerprint, Refusal,
    TokenHash,
};
use super::link::ServiceError;
use super::log::{LogError, LogHandle, MemberCommand, MemberRefusal};
use crate::runtime::Deadline;
use crate::store::{RecordBatch, ReplicatedTree, Store, Versioned, WriteError};

/// How long letting a newcomer in may take.
const ADMIT_WITHIN: Duration = Duration::from_secs(8);
/// How many members a join string names, at most.
const ADDRESSES_MAX: usize = 4;
/// Invitations that may be open; more are refused.
const INVITATIONS_MAX: usize = 1_000;

/// What the cluster keeps of an invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Invitation {
    expires_at: Timestamp,
    /// For whom it works, once it was used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    taken_by: Option<NodeId>,
    /// And with which key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    taken_with: Option<KeyFingerprint>,
}

/// An invitation for one newcomer. The string is told only here.
#[derive(Debug)]
pub struct Invited {
    /// What `troupe up --join` takes.
    pub join: SecretString,
    /// How long it works.
    pub expires_in: Duration,
}

/// Invites newcomers and lets them in.
#[derive(Clone)]
pub(super) struct Admission {
    identity: Arc<ClusterIdentity>,
    log: LogHandle,
    store: Store,
    invitations: ReplicatedTree<Invitation>,
    /// What newcomers must have alike.
    timing: ClusterTiming,
}

impl Admission {
    pub fn new(identity: Arc<ClusterIdentity>, log: LogHandle, store: Store, timing: ClusterTiming) -> Self {
        Self {
            identity,
            log,
            invitations: store.replicated("invitations", 1),
            store,
            timing,
        }
    }

    /// What names the cluster.
    pub fn authority(&self) -> String {
        self.identity.fingerprint()
    }

    /// Invites one newcomer. It will look for members at `own_address` and where others are reached.
    pub async fn invite(&self, own_address: &str, deadline: Deadline) -> Result<Invited, ServiceError> {
        let now = jiff::Timestamp::now();
        self.forget_expired(now, deadline).await?;
        let membership = Arc::clone(&self.log.membership().borrow());
        let others = membership
            .eligible()
            .filter(|member| member.id != self.identity.node())
            .map(|member| member.cluster_address.clone());
        let addresses = [own_address.to_owned()].into_iter().chain(others);
        let (join, hash) = self
            .identity
            .invite(addresses.take(ADDRESSES_MAX).collect(), now, INVITATION_VALID_FOR)
            .map_err(|error| ServiceError::from(&error))?;
        let invitation = Invitation {
            expires_at: join.valid_until().into(),
            taken_by: None,
            taken_with: None,
        };
        let mut batch = RecordBatch::default();
        let put = self
            .invitations
            .put_into(&mut batch, &hash.to_string(), &invitation);
        put.map_err(|error| ServiceError::from(&error))?;
        self.write(batch, deadline).await?;
        Ok(Invited {
            join: join.to_string().into(),
            expires_in: INVITATION_VALID_FOR,
        })
    }

    async fn forget_expired(&self, now: jiff::Timestamp, deadline: Deadline) -> Result<(), ServiceError> {
        let mut batch = RecordBatch::default();
        let mut open = 0;
        for entry in self.invitations.scan_prefix("") {
            let (hash, invitation) = entry.map_err(|error| ServiceError::from(&error))?;
            if invitation.expires_at.as_jiff() < now {
                self.invitations.remove_into(&mut batch, &hash);
            } else if invitation.taken_by.is_none() {
                open += 1;
            }
        }
        if open >= INVITATIONS_MAX {
            let detail = format!("{open} invitations are open: wait until some are used or over");
            return Err(ServiceError::new(Code::TooManyRequests, detail));
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.write(batch, deadline).await
    }

    /// Makes the invitation worthless with which a member came: for one that is about to be removed.
    pub async fn forget_that_of(&self, node: NodeId, deadline: Deadline) -> Result<(), ServiceError> {
        let mut batch = RecordBatch::default();
        for entry in self.invitations.scan_prefix("") {
            let (hash, invitation) = entry.map_err(|error| ServiceError::from(&error))?;
            if invitation.taken_by == Some(node) {
                self.invitations.remove_into(&mut batch, &hash);
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        self.write(batch, deadline).await
    }

    async fn write(&self, batch: RecordBatch, deadline: Deadline) -> Result<(), ServiceError> {
        let written = self.store.write_records(batch, deadline).await;
        written.map_err(|error| ServiceError::from(&error))
    }

    async fn decide(
        &self,
        token: TokenHash,
        key: KeyFingerprint,
        applicant: Applicant,
    ) -> Result<EnrolGrant, Refusal> {
        let deadline = Deadline::within(ADMIT_WITHIN);
        let (oldest, newest) = applicant.wire_versions;
        if newest < WIRE_VERSION_MIN || oldest > WIRE_VERSION_MAX {
            let detail = format!(
                "the newcomer's program speaks versions {oldest} to {newest} of the wire, this node's {WIRE_VERSION_MIN} to {WIRE_VERSION_MAX}"
            );
            return Err(refusal(Code::WireVersionUnsupported, detail));
        }
        self.log
            .linearize(deadline)
            .await
            .map_err(|error| refused(&error))?;
        let found = self.look_up(token, applicant.node, &key)?;
        self.compare_timing(&applicant)?;
        let membership = Arc::clone(&self.log.membership().borrow());
        let holder = membership
            .members
            .values()
            .find(|member| member.name == applicant.name);
        if let Some(holder) = holder.filter(|holder| holder.id != applicant.node) {
            let name = applicant.name.as_str().to_owned();
            let error = LogError::Refused(MemberRefusal::NameTaken {
                name,
                holder: holder.id,
            });
            return Err(refused(&error));
        }
        self.take(token, found, applicant.node, key, deadline).await?;
        let member = MemberCommand::Add(member_of(applicant));
        self.log
            .change(member, deadline)
            .await
            .map_err(|error| refused(&error))?;
        let membership = Arc::clone(&self.log.membership().borrow());
        Ok(EnrolGrant {
            members: membership.members.values().cloned().collect(),
        })
    }

    /// Nobody would have a link to it.
    fn compare_timing(&self, applicant: &Applicant) -> Result<(), Refusal> {
        match applicant.timing {
            Some(theirs) if theirs != self.timing => {
                let detail = format!(
                    "the newcomer has {theirs} ([cluster] in its cluster.toml), the cluster {}: start it with the same",
                    self.timing
                );
                Err(refusal(Code::ClusterSettingsDiffer, detail))
            }
            _ => Ok(()),
        }
    }

    /// The invitation of this token, if it may be used by this node with this key.
    fn look_up(
        &self,
        token: TokenHash,
        node: NodeId,
        key: &KeyFingerprint,
    ) -> Result<Versioned<Invitation>, Refusal> {
        let found = self
            .invitations
            .get_versioned(&token.to_string())
            .map_err(|error| refused(&error))?;
        let found = found.ok_or_else(unknown)?;
        let invitation = &found.value;
        let is_open = invitation.taken_by.is_none();
        let comes_again = invitation.taken_by == Some(node) && invitation.taken_with.as_ref() == Some(key);
        if !is_open && !comes_again {
            return Err(unknown());
        }
        if invitation.expires_at.as_jiff() < jiff::Timestamp::now() {
            let detail = "the join string has expired: make a new one with `troupe node invite`";
            return Err(refusal(Code::JoinRefused, detail.to_owned()));
        }
        Ok(found)
    }

    /// From now on the token works for this node with this key alone.
    async fn take(
        &self,
        token: TokenHash,
        found: Versioned<Invitation>,
        node: NodeId,
        key: KeyFingerprint,
        deadline: Deadline,
    ) -> Result<(), Refusal> {
        if found.value.taken_by.is_some() {
            return Ok(()); // it comes again
        }
        let taken = Invitation {
            taken_by: Some(node),
            taken_with: Some(key),
            ..found.value
        };
        let record = token.to_string();
        let mut batch = RecordBatch::default();
        self.invitations
            .guard_into(&mut batch, &record, Some(found.version));
        let put = self.invitations.put_into(&mut batch, &record, &taken);
        put.map_err(|error| refused(&error))?;
        match self.store.write_records(batch, deadline).await {
            Ok(()) => Ok(()),
            Err(WriteError::Conflict(_)) => Err(unknown()),
            Err(error) => Err(refused(&error)),
        }
    }
}

impl EnrolDesk for Admission {
    fn admit(
        &self,
        token: TokenHash,
        key: KeyFingerprint,
        applicant: Applicant,
    ) -> BoxFuture<'static, Result<EnrolGrant, Refusal>> {
        let admission = self.clone();
        Box::pin(async move {
            let (node, name) = (applicant.node, applicant.name.clone());
            let decided = admission.decide(token, key, applicant).await;
            match &decided {
                Ok(_) => tracing::info!(%node, %name, "a newcomer is a member now"),
                Err(refusal) => {
                    tracing::warn!(%node, %name, reason = refusal.detail, "a newcomer was refused")
                }
            }
            decided
        })
    }

    fn knows(&self, token: TokenHash) -> bool {
        let found = self.invitations.get(&token.to_string());
        // One that was used gives no right to be waited for.
        matches!(found, Ok(Some(invitation)) if invitation.taken_by.is_none())
    }
}

fn unknown() -> Refusal {
    let detail = "the join string is unknown or used up: make a new one with `troupe node invite`";
    refusal(Code::JoinRefused, detail.to_owned())
}

fn refusal(code: Code, detail: String) -> Refusal {
    Refusal { code, detail }
}

fn refused<E: Coded>(error: &E) -> Refusal {
    refusal(error.code(), error.to_string())
}

fn member_of(applicant: Applicant) -> Member {
    Member {
        id: applicant.node,
        name: applicant.name,
        generation: applicant.generation,
        role: Role::Learner,
        // It goes up with its first sign of life.
        state: MemberState::Down,
        cluster_address: applicant.cluster_address,
        edge_address: applicant.edge_address,
        version: applicant.version,
        joined_at: jiff::Timestamp::now().into(),
    }
}
