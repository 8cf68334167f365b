//! The layer over ractor that every actor goes through.
//!
//! ractor gives tasks with links, signals before messages, and panics caught. It gives no bound on a mailbox, no look
//! inside, no restart strategy and no way to follow a request; those are here, once, so that every actor has them:
//!
//! | file | what |
//! |---|---|
//! | [`actor`] | what an actor implements |
//! | [`mailbox`] | bounded mailboxes, asking with a deadline |
//! | [`context`] | what an actor may do while it works: tasks, timers, stopping |
//! | `cell` | the ractor shell that runs an actor |
//! | [`supervisor`] | strategies, restart intensity, back-off, escalation |
//! | [`directory`] | every actor of the node: reports, snapshots, commands |
//! | [`metrics`] | what is counted of an actor |
//! | [`trace`] | following one request through the actors |
//! | [`dead_letters`] | what could not be delivered |
//! | [`system`] | all of it together, one per node |
//! | [`warnings`] | what a person should look at |
//! | [`testkit`] | probe actors and crash injection for tests |
//!
//! A mailbox is made before its actor and outlives each of the actor's lives: whoever holds it need not know about
//! restarts, and messages that waited during a restart are handled after it. Only the message in hand is lost with a
//! crash; who asked it is told at once.

pub mod actor;
mod cell;
pub mod context;
pub mod dead_letters;
pub mod deadline;
pub mod directory;
pub mod mailbox;
pub mod metrics;
pub mod supervisor;
pub mod system;
pub mod testkit;
pub mod trace;
pub mod warnings;

pub use actor::{Actor, ActorError, Message};
pub use context::{Context, TimerHandle};
pub use deadline::Deadline;
pub use directory::Directory;
pub use mailbox::{AskError, Mailbox, Reply, SendError};
pub use supervisor::{
    Backoff, ChildSpec, Intensity, Restart, StartChildError, Strategy, SupervisorHandle, SupervisorSpec,
};
pub use system::{Root, System, SystemConfig};
pub use troupe_protocol::id::ActorPath;
pub use troupe_protocol::observe::ExitReason;
pub use troupe_protocol::trace::TraceContext;
