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
use troupe_protocol::id::{ActorPath, NodeId};

use crate::runtime::{Actor, ActorError, ChildSpec, Context, Mailbox, System};

pub(super) use call::{Listener, ParkedCall, Round};
pub(super) use messages::Whose;
pub use messages::{ParkingError, ParkingHandle};

use messages::ParkingMessage;
pub use seal::StateKey;
pub use state::ParkingLimits;

use state::Lot;

/// Calls that wait to be parked or taken.
const MAILBOX_MESSAGES_MAX: u32 = 1_024;
/// How often it is looked whose time is over.
const SWEEP_EVERY: Duration = Duration::from_secs(5);

/// Owns the parked calls.
struct ParkingActor {
    lot: Lot<ParkedCall>,
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
                let refused = self.lot.park(id, &caller, round, call, now_ms).err();
                reply.send(refused.is_none());
                if let Some(call) = refused {
                    // To the server it is as if the client had not answered.
                    call.give_up();
                }
            }
            ParkingMessage::Take { id, round, reply } => {
                reply.send(self.lot.take(id, round, now_ms).map(Box::new));
            }
            ParkingMessage::Sweep => {
                for call in self.lot.expired(now_ms) {
                    self.expired += 1;
                    call.give_up();
                }
                ctx.send_after(SWEEP_EVERY, ParkingMessage::Sweep);
            }
        }
        Ok(())
    }

    fn snapshot(&self) -> Value {
        serde_json::json!({ "parked": self.lot.len(), "expired": self.expired })
    }
}
