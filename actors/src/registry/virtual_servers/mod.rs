//! Virtual servers: which there are, and how a thing of a registered server looks on one.
//!
//! # Layout
//! - here: the actor, the only writer of its node
//! - `messages`: what it is told, [`VirtualServersHandle`]
//! - `check`: what a definition may say, pure; [`view`]: things and calls as definitions change them, pure
//!
//! Answering the clients of virtual servers is the business of [`crate::session`].
//!
//! State: replicated (tree `virtual_servers`); read back at the start of each life. A definition is written as a whole,
//! so no two writers can make a third of their two: the later one counts.

mod check;
mod error;
mod messages;
#[cfg(test)]
mod tests;
pub mod view;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use troupe_protocol::server::ServerName;

pub use check::check;
pub use error::VirtualServerError;
use messages::Shared;
pub use messages::{VirtualServer, VirtualServers, VirtualServersHandle, VirtualServersMessage};

use crate::runtime::{Actor, ActorError, ActorPath, ChildSpec, Context, Deadline, Mailbox, Reply, System};
use crate::store::replicated::{WRITE_WITHIN, nudge};
use crate::store::{RecordBatch, ReplicatedTree, Store, StoreError, TreeChange, TreeFeed, WriteError};

/// The most virtual servers.
pub const VIRTUAL_SERVERS_MAX: usize = 1_000;

const MAILBOX_MESSAGES_MAX: u32 = 256;
const VIRTUAL_SERVERS_TREE: &str = "virtual_servers";
const SCHEMA_VERSION: u16 = 1;
const TREES: &[&str] = &[VIRTUAL_SERVERS_TREE];

/// The keeper of virtual servers under this path, and the handle to it.
pub fn child(system: &System, path: ActorPath, store: &Store) -> (ChildSpec, VirtualServersHandle) {
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    let (handle, shared) = VirtualServersHandle::new(mailbox.clone());
    let tree = store.replicated(VIRTUAL_SERVERS_TREE, SCHEMA_VERSION);
    // Who asks before the actor has started is answered, too. What cannot be read then is said when it starts.
    shared.view.store(Arc::new(read(&tree).unwrap_or_default()));
    let store = store.clone();
    let spec = ChildSpec::actor(mailbox, move || VirtualServersActor {
        feed: store.follow(TREES),
        store: store.clone(),
        tree: tree.clone(),
        shared: Arc::clone(&shared),
    });
    (spec, handle)
}

fn read(tree: &ReplicatedTree<VirtualServer>) -> Result<VirtualServers, StoreError> {
    let records = tree.scan_prefix("");
    records
        .map(|record| record.map(|(_, server)| (server.name.clone(), Arc::new(server))))
        .collect()
}

/// The actor. What it knows is what it has published.
struct VirtualServersActor {
    store: Store,
    feed: TreeFeed,
    tree: ReplicatedTree<VirtualServer>,
    shared: Arc<Shared>,
}

impl Actor for VirtualServersActor {
    type Message = VirtualServersMessage;
    const KIND: &'static str = "virtual_servers";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let nudges = nudge(self.store.follow(TREES), ctx.mailbox().clone(), || {
            VirtualServersMessage::CatchUp
        });
        ctx.spawn("follow the replicated virtual servers", nudges);
        self.read_everything()?;
        Ok(())
    }

    async fn handle(
        &mut self,
        message: VirtualServersMessage,
        ctx: &Context<Self>,
    ) -> Result<(), ActorError> {
        match message {
            VirtualServersMessage::Put { server, reply } => {
                self.catch_up()?;
                match self.record_of(&server) {
                    Ok(batch) => self.write(ctx, batch, |written| VirtualServersMessage::Kept {
                        name: server.name,
                        written,
                        reply,
                    }),
                    Err(error) => reply.send(Err(error)),
                }
            }
            VirtualServersMessage::Kept { name, written, reply } => {
                self.catch_up()?;
                reply.send(written.map_err(VirtualServerError::from).and_then(|()| {
                    // Removed at another node in the same moment.
                    let kept = self.shared.view.load().get(&name).map(Arc::clone);
                    kept.ok_or(VirtualServerError::NotFound(name))
                }));
            }
            VirtualServersMessage::Remove {
                name,
                is_up_to_date,
                reply,
            } => {
                self.catch_up()?;
                if self.shared.view.load().contains_key(&name) {
                    let mut batch = RecordBatch::default();
                    self.tree.remove_into(&mut batch, name.as_str());
                    self.write(ctx, batch, |written| VirtualServersMessage::Removed {
                        written,
                        reply,
                    });
                } else if is_up_to_date {
                    reply.send(Err(VirtualServerError::NotFound(name)));
                } else {
                    self.look_again(ctx, name, reply);
                }
            }
            VirtualServersMessage::Removed { written, reply } => {
                self.catch_up()?;
                reply.send(written.map_err(VirtualServerError::from));
            }
            VirtualServersMessage::CatchUp => self.catch_up()?,
        }
        Ok(())
    }

    fn snapshot(&self) -> Value {
        let view = self.shared.view.load();
        let items: usize = view.values().map(|server| server.definition.items.len()).sum();
        json!({ "virtual_servers": view.len(), "virtual_servers_max": VIRTUAL_SERVERS_MAX, "items": items })
    }
}

impl VirtualServersActor {
    fn record_of(&self, server: &VirtualServer) -> Result<RecordBatch, VirtualServerError> {
        let view = self.shared.view.load();
        if view.len() >= VIRTUAL_SERVERS_MAX && !view.contains_key(&server.name) {
            return Err(VirtualServerError::Full);
        }
        let mut batch = RecordBatch::default();
        self.tree.put_into(&mut batch, server.name.as_str(), server)?;
        Ok(batch)
    }

    /// Writes beside the actor: other changes do not wait for a majority to have this one.
    fn write(
        &self,
        ctx: &Context<Self>,
        batch: RecordBatch,
        message: impl FnOnce(Result<(), WriteError>) -> VirtualServersMessage + Send + 'static,
    ) {
        let store = self.store.clone();
        ctx.spawn_to_self("write a virtual server", async move {
            let deadline = Deadline::within(WRITE_WITHIN);
            message(store.write_records(batch, deadline).await)
        });
    }

    /// What was put at another node a moment ago may not have come here yet.
    fn look_again(
        &self,
        ctx: &Context<Self>,
        name: ServerName,
        reply: Reply<Result<(), VirtualServerError>>,
    ) {
        let store = self.store.clone();
        ctx.spawn_to_self("catch up before a refusal", async move {
            match store.linearize(Deadline::within(WRITE_WITHIN)).await {
                Ok(()) => VirtualServersMessage::Remove {
                    name,
                    is_up_to_date: true,
                    reply,
                },
                Err(error) => VirtualServersMessage::Removed {
                    written: Err(error),
                    reply,
                },
            }
        });
    }

    /// Takes what has changed, here or at other nodes.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        let keys = match self.feed.drain() {
            None => return Ok(()),
            Some(TreeChange::Everything) => return self.read_everything(),
            Some(TreeChange::Keys(keys)) => keys,
        };
        let mut view = VirtualServers::clone(&self.shared.view.load());
        for changed in keys {
            let Ok(name) = ServerName::new(&changed.key) else {
                continue;
            };
            match self.tree.get(&changed.key)? {
                Some(server) => view.insert(name, Arc::new(server)),
                None => view.remove(&name),
            };
        }
        self.publish(view);
        Ok(())
    }

    fn read_everything(&mut self) -> Result<(), StoreError> {
        self.publish(read(&self.tree)?);
        Ok(())
    }

    /// Shows everybody what there is now, and says what has changed.
    fn publish(&self, view: VirtualServers) {
        let view = Arc::new(view);
        let before = self.shared.view.swap(Arc::clone(&view));
        let names: BTreeSet<&ServerName> = before.keys().chain(view.keys()).collect();
        for name in names {
            if before.get(name) != view.get(name) {
                let _nobody_listens = self.shared.changes.send(name.clone());
            }
        }
    }
}
