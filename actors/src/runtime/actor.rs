//! What an actor implements.

use std::future::Future;

use super::context::Context;
use troupe_protocol::observe::ExitReason;

/// What an actor can be told. Usually an enum that derives [`strum::IntoStaticStr`].
pub trait Message: Send + 'static {
    /// The message's name as the console shows it, as `UserQueryReceived`.
    fn name(&self) -> &'static str;
}

/// An actor: state that only its own handlers touch, one message after the other.
///
/// The value itself is the state. It is made anew for each life by the factory in its
/// [`ChildSpec`](super::ChildSpec); what must survive a crash is read back in [`started`](Actor::started).
///
/// Handlers should be short: long work belongs into [`Context::spawn`], whose result comes back as a message.
pub trait Actor: Sized + Send + 'static {
    /// What it can be told.
    type Message: Message;

    /// Its kind in one lower-case word, as `registry`.
    const KIND: &'static str;

    /// Whether it supervises others. Only the runtime's own supervisor does.
    const SUPERVISES: bool = false;

    /// Rebuilds the state before the first message. An error counts as a death.
    fn started(&mut self, ctx: &Context<Self>) -> impl Future<Output = Result<(), ActorError>> + Send {
        let _ = ctx;
        async { Ok(()) }
    }

    /// Handles one message. An error or a panic ends this life; the supervisor decides about the next.
    fn handle(
        &mut self,
        message: Self::Message,
        ctx: &Context<Self>,
    ) -> impl Future<Output = Result<(), ActorError>> + Send;

    /// Hears of a child's end. Only supervisors have children.
    fn child_ended(
        &mut self,
        child: ChildEnded,
        ctx: &Context<Self>,
    ) -> impl Future<Output = Result<(), ActorError>> + Send {
        let _ = (child, ctx);
        async { Ok(()) }
    }

    /// Says good-bye; not called after a kill.
    fn stopped(&mut self, reason: &ExitReason) -> impl Future<Output = ()> + Send {
        let _ = reason;
        async {}
    }

    /// The state as the console shows it: small, and without secrets.
    fn snapshot(&self) -> serde_json::Value;
}

/// A child's life is over.
#[derive(Debug, Clone, Copy)]
pub struct ChildEnded {
    pub(super) life: ractor::ActorId,
}

/// Why a handler gave up.
#[derive(Debug)]
pub struct ActorError(Box<dyn std::error::Error + Send + Sync>);

impl ActorError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into().into())
    }
}

impl std::fmt::Display for ActorError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for ActorError {
    fn from(error: E) -> Self {
        Self(Box::new(error))
    }
}
