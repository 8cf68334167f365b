//! Calls of modern clients that stand still while the client gathers what a legacy server asks.
//!
//! A legacy server asks in the middle of a call and waits. A modern client cannot be asked: it is answered that input is
//! required, and calls again. Until then its call is parked here, owned by this actor, found by the sealed state that
//! the client brings back.
//!
//! # Layout
//! - `call`: a call in rounds; `state`: which calls are parked (pure); `seal`: the `requestState`
//! - `messages`: what the actor is told, and the handle
//!
//! State: local and lost with the node. Whoever comes back to a node that does not have the call is told to begin anew.

mod call;
mod messages;
mod seal;
mod state;

use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;
use troupe_protocol::id::{ActorPath, NodeId};

use crate::runtime::{Actor, ActorError, ChildSpec, Context, Mailbox, Reply, System};

pub(super) use call::{Listener, ParkedCall, Round};
pub(super) use messages::Whose;
pub use messages::{ParkingError, ParkingHandle};

use messages::{ParkingMessage, Taker};
pub use seal::StateKey;
pub use state::ParkingLimits;

use state::Lot;

/// Calls that wait to be parked or taken.
const MAILBOX_MESSAGES_MAX: u32 = 1_024;
/// How often it is looked whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Comes for a call; dropped unused, it gives the call up.
type Pass = oneshot::Sender<Reply<Option<Box<ParkedCall>>>>;

/// Owns the parked calls. Each stands still in a task of its own, which ends with the actor.
struct ParkingActor {
    lot: Lot<Pass>,
    expired: u64,
}

/// The parking actor under this path, and the handle to it.
pub fn parking(
    system: &System,
    path: ActorPath,
    node: NodeId,
    key: StateKey,
    limits: ParkingLimits,
) -> (ChildSpec, ParkingHandle) {
    let mailbox = Mailbox::new(system, path, MAILBOX_MESSAGES_MAX);
    let handle = ParkingHandle::new(mailbox.clone(), node, key);
    let spec = ChildSpec::actor(mailbox, move || ParkingActor {
        lot: Lot::new(limits),
        expired: 0,
    });
    (spec, handle)
}

impl Actor for ParkingActor {
    type Message = ParkingMessage;
    const KIND: &'static str = "parking";

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        ctx.send_after(SWEEP_EVERY, ParkingMessage::Sweep);
        Ok(())
    }

    async fn handle(&mut self, message: ParkingMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        let now_ms = messages::now_ms();
        match message {
            ParkingMessage::Park(request, reply) => {
                let messages::Park {
                    id,
                    caller,
                    round,
                    call,
                } = *request;
                let (pass, taken) = oneshot::channel();
                reply.send(self.lot.park(id, &caller, round, pass, now_ms).is_ok());
                // Without room the pass is gone already: to the server it is as if the client had not answered.
                ctx.spawn("a parked call", call.wait(taken));
            }
            ParkingMessage::Take(Taker { id, round }, reply) => match self.lot.take(id, round, now_ms) {
                Some(pass) => {
                    // A call whose task is gone answers nothing, and who asks learns that it is over.
                    let _ = pass.send(reply);
                }
                None => reply.send(None),
            },
            ParkingMessage::Sweep => {
                self.expired += self.lot.expire(now_ms);
                ctx.send_after(SWEEP_EVERY, ParkingMessage::Sweep);
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Value {
        serde_json::json!({ "parked": self.lot.len(), "expired": self.expired })
    }
}
