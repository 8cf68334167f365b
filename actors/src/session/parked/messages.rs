//! What the parking actor is told, and the handle with which the gateway does.

use std::fmt;
use std::time::Duration;

use serde_json::value::RawValue;
use troupe_protocol::access::Principal;
use troupe_protocol::id::NodeId;
use troupe_protocol::server::ServerName;

use super::call::ParkedCall;
use super::seal::{self, Binding, StateKey, Ticket};
use crate::runtime::{AskError, Deadline, Mailbox, Message, Reply};
use crate::session::endpoint::Endpoint;

/// How long parking and taking may take.
const PARKING_TIME_MAX: Duration = Duration::from_secs(5);

/// A call to be parked.
pub(super) struct Park {
    pub id: u128,
    pub caller: String,
    pub round: u32,
    pub call: ParkedCall,
}

/// Who comes for a call.
pub(super) struct Taker {
    pub id: u128,
    pub round: u32,
}

/// What the actor does.
#[derive(strum::IntoStaticStr)]
pub(super) enum ParkingMessage {
    /// Keep a call until its client comes back; the reply says whether there is room.
    Park(Box<Park>, Reply<bool>),
    /// A client is back: its call, if it is there in this round.
    Take(Taker, Reply<Option<Box<ParkedCall>>>),
    /// The time of some may be over.
    Sweep,
}

impl Message for ParkingMessage {
    fn name(&self) -> &'static str {
        self.into()
    }
}

/// Why a call could not be parked or taken up again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParkingError {
    /// There are too many already, in all or of this caller.
    #[error("too many calls wait for their clients' input")]
    Full,
    /// The state was not given for this request, or was changed.
    #[error("params.requestState is not one that was given for this request")]
    NotForThis,
    /// The call is no longer there.
    #[error(
        "the call that waited for this input is over: it had its answer, or its time was up; begin it anew"
    )]
    Over,
    /// The node that had the call is gone, and the call with it.
    #[error(
        "the call that waited for this input was lost with its node and may have had effects; begin it anew, without requestState"
    )]
    NodeGone,
    /// The actor did not answer.
    #[error("parked calls cannot be reached: {0}")]
    Unavailable(String),
}

/// Whose call it is and what it asks: what a state is bound to.
pub(in crate::session) struct Whose<'a> {
    pub principal: &'a Principal,
    pub endpoint: &'a Endpoint,
    /// Which of the endpoint's servers is called.
    pub server: &'a ServerName,
    pub method: &'a str,
    pub params: Option<&'a RawValue>,
}

impl Whose<'_> {
    fn binding(&self) -> Binding {
        Binding::new(self)
    }

    fn caller(&self) -> String {
        let key = self.principal.key_id.map(|key| key.to_string());
        key.unwrap_or_else(|| self.principal.name.clone())
    }
}

/// Parks calls and takes them up again. Cheap to clone.
#[derive(Clone)]
pub struct ParkingHandle {
    mailbox: Mailbox<ParkingMessage>,
    node: NodeId,
    key: StateKey,
}

impl fmt::Debug for ParkingHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ParkingHandle")
    }
}

impl ParkingHandle {
    pub(super) fn new(mailbox: Mailbox<ParkingMessage>, node: NodeId, key: StateKey) -> Self {
        Self { mailbox, node, key }
    }

    /// The other node that has the call to which a client is back with this state; nothing if that is this node, or the
    /// state is not one of ours.
    pub(in crate::session) fn elsewhere(&self, state: &str) -> Option<NodeId> {
        let ticket = Self::is_ours(state)
            .then(|| seal::open(&self.key, state))
            .flatten()?;
        (ticket.node != self.node).then_some(ticket.node)
    }

    /// Whether a client's `requestState` is one of ours; a modern server's own passes as it is.
    pub(in crate::session) fn is_ours(state: &str) -> bool {
        seal::is_ours(state)
    }

    /// Parks a call whose server has asked; answers the result for the client.
    ///
    /// # Errors
    /// [`ParkingError::Full`]: the server has been told that there is no answer, and the call has ended.
    pub(in crate::session) async fn park(
        &self,
        whose: &Whose<'_>,
        call: ParkedCall,
        round: u32,
    ) -> Result<String, ParkingError> {
        let id = fastrand::u128(..);
        let ticket = Ticket {
            node: self.node,
            call: id,
            round,
            binding: whose.binding(),
        };
        let state = seal::seal(&self.key, &ticket);
        let state = state.ok_or_else(|| ParkingError::Unavailable("no random numbers".to_owned()))?;
        let result = call.input_required(&state);
        let park = Box::new(Park {
            id,
            caller: whose.caller(),
            round,
            call,
        });
        let parked = self.mailbox.ask(
            |reply| ParkingMessage::Park(park, reply),
            Deadline::within(PARKING_TIME_MAX),
        );
        let is_parked = parked.await.map_err(|error| unavailable(&error))?;
        is_parked.then_some(result).ok_or(ParkingError::Full)
    }

    /// Takes a call up again with the state that its client brings back; answers the round that it was in, too.
    ///
    /// # Errors
    /// [`ParkingError::NotForThis`] and [`ParkingError::Over`].
    pub(in crate::session) async fn take(
        &self,
        whose: &Whose<'_>,
        state: &str,
    ) -> Result<(ParkedCall, u32), ParkingError> {
        let ticket = seal::open(&self.key, state).ok_or(ParkingError::NotForThis)?;
        if ticket.binding != whose.binding() {
            return Err(ParkingError::NotForThis);
        }
        if ticket.node != self.node {
            // Handing the request on to the node that has the call is the edge's part.
            return Err(ParkingError::NodeGone);
        }
        let Ticket { call: id, round, .. } = ticket;
        let taken = self.mailbox.ask(
            |reply| ParkingMessage::Take(Taker { id, round }, reply),
            Deadline::within(PARKING_TIME_MAX),
        );
        let taken = taken.await.map_err(|error| unavailable(&error))?;
        taken.map(|call| (*call, round)).ok_or(ParkingError::Over)
    }
}

fn unavailable(error: &AskError) -> ParkingError {
    ParkingError::Unavailable(error.to_string())
}

pub(super) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
