//! A server of which there is one process in the cluster, wherever that runs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;
use troupe_protocol::error::Code;
use troupe_protocol::id::NodeId;
use troupe_protocol::jsonrpc::RawReply;
use troupe_protocol::mcp::{Descriptor, ListKind, Profile};
use troupe_protocol::server::ServerName;
use troupe_protocol::upstream::{LogLine, UpstreamInfo, UpstreamState};

use super::remote::Trouble;
use super::{address_of, of_process};
use crate::cluster::patience::Patience;
use crate::cluster::{Nowhere, Whereabouts};
use crate::runtime::Deadline;
use crate::upstream::error::UpstreamError;
use crate::upstream::messages::CallOptions;
use crate::upstream::retry;
use crate::upstream::shared::Shared;
use crate::upstream::slot::{Slot, traced};
use crate::upstream::watch::Refused;

/// A server wherever it runs. Each use finds out anew where that is.
#[derive(Clone)]
pub(in crate::upstream) struct PlacedServer {
    shared: Arc<Shared>,
    name: ServerName,
    /// What the clients can do for whom this is: a legacy server has a process for each kind of them.
    profile: Profile,
    /// As it was when this was made.
    info: Arc<UpstreamInfo>,
}

/// Where the server is at the moment.
enum Place {
    Here,
    At(NodeId),
    Nowhere(UpstreamError),
}

impl PlacedServer {
    /// The server, connected to if need be.
    pub async fn open(
        shared: &Arc<Shared>,
        name: &ServerName,
        deadline: Deadline,
    ) -> Result<Self, UpstreamError> {
        let mut attempts = Attempts::new(shared, deadline);
        loop {
            let outcome = match place_of(shared, name) {
                Place::Here => match slot_of(shared, name, Profile::NONE, deadline).await {
                    Ok(slot) => {
                        let connection = slot.ready(deadline).await;
                        connection
                            .map(|connection| Arc::clone(&connection.info))
                            .map_err(|error| here(&slot, error))
                    }
                    Err(error) => Err(error),
                },
                Place::At(node) => match shared.elsewhere.info_if_ready(name, node) {
                    Some(info) => Ok(info),
                    None => shared.remote(name).ready(deadline).await,
                },
                Place::Nowhere(error) => Err(Trouble::NotAsked(error)),
            };
            match outcome {
                Ok(info) => {
                    return Ok(Self {
                        shared: Arc::clone(shared),
                        name: name.clone(),
                        profile: Profile::NONE,
                        info,
                    });
                }
                Err(trouble) => attempts.after(trouble, true).await?,
            }
        }
    }

    /// The same for clients that can do this much.
    pub fn for_clients(&self, profile: Profile) -> Self {
        Self {
            profile: of_process(profile),
            ..self.clone()
        }
    }

    pub fn name(&self) -> &ServerName {
        &self.name
    }

    pub fn profile(&self) -> Profile {
        self.profile
    }

    /// What the server said of itself at its last start.
    pub fn info(&self) -> Arc<UpstreamInfo> {
        let known = self.shared.info_of(&self.name);
        known.unwrap_or_else(|| Arc::clone(&self.info))
    }

    /// Makes a request where the server is.
    pub async fn request(
        &self,
        method: &str,
        params: Option<&RawValue>,
        options: CallOptions,
    ) -> Result<RawReply, UpstreamError> {
        let mut attempts = Attempts::new(&self.shared, options.deadline);
        loop {
            let outcome = match self.place() {
                Place::Here => match self.slot(options.deadline).await {
                    Ok(slot) => slot
                        .request(method, params, options.clone())
                        .await
                        .map_err(|error| here(&slot, error)),
                    Err(trouble) => Err(trouble),
                },
                Place::At(_) => self.request_remotely(method, params, &options).await,
                Place::Nowhere(error) => Err(Trouble::NotAsked(error)),
            };
            match outcome {
                Ok(reply) => return Ok(reply),
                Err(trouble) => attempts.after(trouble, retry::is_harmless(method)).await?,
            }
        }
    }

    /// The request at another node, as a step of the caller's trace; the owner's own steps are below it.
    async fn request_remotely(
        &self,
        method: &str,
        params: Option<&RawValue>,
        options: &CallOptions,
    ) -> Result<RawReply, Trouble> {
        let remote = self.shared.remote(&self.name);
        let mut trouble = None;
        let work = async {
            let reply = remote.request(method, params, self.profile, options).await;
            reply.map_err(|met| {
                let error = met.error().clone();
                trouble = Some(met);
                error
            })
        };
        let path = self.shared.supervisor.path().child(&self.name);
        let name = crate::upstream::frame::name_of(method, params);
        let reply = traced(&self.shared.system, &path, method, name.as_deref(), work).await;
        reply.map_err(|error| trouble.unwrap_or(Trouble::Final(error)))
    }

    /// Sends a notification.
    pub async fn notify(
        &self,
        method: &str,
        params: Option<&RawValue>,
        deadline: Deadline,
    ) -> Result<(), UpstreamError> {
        let mut attempts = Attempts::new(&self.shared, deadline);
        loop {
            let outcome = match self.place() {
                Place::Here => match self.slot(deadline).await {
                    Ok(slot) => slot
                        .notify(method, params, deadline)
                        .await
                        .map_err(|error| here(&slot, error)),
                    Err(trouble) => Err(trouble),
                },
                Place::At(_) => {
                    self.shared
                        .remote(&self.name)
                        .notify(method, params, deadline)
                        .await
                }
                Place::Nowhere(error) => Err(Trouble::NotAsked(error)),
            };
            match outcome {
                Ok(()) => return Ok(()),
                Err(trouble) => attempts.after(trouble, false).await?,
            }
        }
    }

    /// What the server lists of this kind; kept on this node, too, until its owner lets know of a change.
    pub async fn list(
        &self,
        kind: ListKind,
        deadline: Deadline,
    ) -> Result<Arc<Vec<Descriptor>>, UpstreamError> {
        let mut attempts = Attempts::new(&self.shared, deadline);
        loop {
            let outcome = match self.place() {
                Place::Here => match self.slot(deadline).await {
                    Ok(slot) => slot
                        .list(kind, deadline)
                        .await
                        .map_err(|error| here(&slot, error)),
                    Err(trouble) => Err(trouble),
                },
                Place::At(node) => self.list_remotely(node, kind, deadline).await,
                Place::Nowhere(error) => Err(Trouble::NotAsked(error)),
            };
            match outcome {
                Ok(items) => return Ok(items),
                Err(trouble) => attempts.after(trouble, true).await?,
            }
        }
    }

    async fn list_remotely(
        &self,
        node: NodeId,
        kind: ListKind,
        deadline: Deadline,
    ) -> Result<Arc<Vec<Descriptor>>, Trouble> {
        let remote = self.shared.remote(&self.name);
        let is_ready = || self.shared.elsewhere.state_at(&self.name, node) == Some(UpstreamState::Ready);
        if is_ready()
            && let Some(items) = remote.lists.get(kind)
        {
            return Ok(items);
        }
        let epoch = remote.lists.epoch(kind);
        let items = remote.list(kind, deadline).await?;
        if is_ready() {
            let age_max = Duration::from_millis(self.shared.settings.list_age_ms_max);
            remote.lists.keep_for(kind, epoch, &items, age_max);
        }
        Ok(items)
    }

    async fn slot(&self, deadline: Deadline) -> Result<Arc<Slot>, Trouble> {
        slot_of(&self.shared, &self.name, self.profile, deadline).await
    }

    fn place(&self) -> Place {
        place_of(&self.shared, &self.name)
    }
}

/// Lets the node that runs a server know of which resources clients want to hear here.
pub(in crate::upstream) async fn watch_remotely(
    shared: &Arc<Shared>,
    name: &ServerName,
    profile: Profile,
    uris: &BTreeSet<String>,
    deadline: Deadline,
) -> Result<Refused, UpstreamError> {
    let mut attempts = Attempts::new(shared, deadline);
    loop {
        match shared.remote(name).watch(profile, uris, deadline).await {
            Ok(refused) => return Ok(refused),
            Err(trouble) => attempts.after(trouble, true).await?,
        }
    }
}

/// The last lines of a server's log, from where it runs.
pub(in crate::upstream) async fn logs_of(
    shared: &Arc<Shared>,
    name: &ServerName,
    deadline: Deadline,
) -> Result<Vec<LogLine>, UpstreamError> {
    match place_of(shared, name) {
        Place::At(_) => {
            let lines = shared.remote(name).logs(deadline).await;
            lines.map_err(Trouble::into_error)
        }
        Place::Here | Place::Nowhere(_) => {
            Ok(shared.slot(name).map(|slot| slot.log.lines()).unwrap_or_default())
        }
    }
}

fn place_of(shared: &Shared, name: &ServerName) -> Place {
    let no_owner = |code: Code, reason: &str| {
        Place::Nowhere(UpstreamError::NoOwner {
            server: name.clone(),
            reason: reason.to_owned(),
            code,
        })
    };
    match shared.cluster.whereabouts(&address_of(name)) {
        Whereabouts::Here(_) => Place::Here,
        Whereabouts::At(node, _) => Place::At(node),
        Whereabouts::Nowhere(Nowhere::NoLease) => no_owner(
            Code::NoQuorum,
            "this node runs it but does not follow a majority of the voters",
        ),
        Whereabouts::Nowhere(Nowhere::Moving) => {
            no_owner(Code::PlacedElsewhere, "it is moving to this node from another")
        }
        Whereabouts::Nowhere(Nowhere::NobodyUp) => no_owner(Code::PlacedElsewhere, "no node is up to run it"),
    }
}

async fn slot_of(
    shared: &Arc<Shared>,
    name: &ServerName,
    profile: Profile,
    deadline: Deadline,
) -> Result<Arc<Slot>, Trouble> {
    let ensured = shared.slot_for(name, profile, deadline).await;
    ensured.map_err(|error| match error {
        UpstreamError::NoOwner { .. } => Trouble::NotAsked(error),
        other => Trouble::Final(other),
    })
}

/// What an error of this node's own slot means for who asked.
fn here(slot: &Slot, error: UpstreamError) -> Trouble {
    match error {
        UpstreamError::Stopped(_) if slot.is_moving() => Trouble::NotAsked(error),
        other => Trouble::Final(other),
    }
}

impl Trouble {
    fn error(&self) -> &UpstreamError {
        match self {
            Self::NotAsked(error) | Self::Lost(error) | Self::Final(error) => error,
        }
    }

    pub(super) fn into_error(self) -> UpstreamError {
        match self {
            Self::NotAsked(error) | Self::Lost(error) | Self::Final(error) => error,
        }
    }
}

/// How often and how long something is tried.
struct Attempts {
    patience: Patience,
    /// Whether an owner was lost already: then the next loss is final.
    has_lost: bool,
}

impl Attempts {
    fn new(shared: &Arc<Shared>, deadline: Deadline) -> Self {
        Self {
            patience: Patience::begin(&shared.cluster, deadline),
            has_lost: false,
        }
    }

    /// Waits until it is worth trying again; hands the error back when it is not.
    async fn after(&mut self, trouble: Trouble, is_harmless: bool) -> Result<(), UpstreamError> {
        let error = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Lost(error) if !is_harmless || self.has_lost => return Err(error),
            Trouble::Lost(error) => {
                self.has_lost = true;
                error
            }
            Trouble::NotAsked(error) => error,
        };
        match self.patience.wait().await {
            true => Ok(()),
            false => Err(error),
        }
    }
}
