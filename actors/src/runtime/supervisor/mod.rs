//! Supervisors: who starts whom, and what happens when a child ends.
//!
//! `state` decides, `spec` is what a supervisor is told to start; here the decisions are carried out. A supervisor is
//! an actor like any other, so it is seen in the console and supervised itself. A child that dies more often than the
//! restart intensity allows takes its supervisor with it, up to the root, whose end ends the node.

mod spec;
mod state;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use troupe_protocol::error::{Code, Coded};
use troupe_protocol::id::ActorPath;
use troupe_protocol::observe::ExitReason;

use super::actor::{Actor, ActorError, ChildEnded, Message};
use super::context::Context;
use super::deadline::Deadline;
use super::mailbox::{AskError, Control, Mailbox, Reply};
use super::metrics::record::Phase;

pub use spec::{ChildSpec, SupervisorSpec};
use spec::{Shared, Spawned};
pub use state::{Backoff, Intensity, Restart, Strategy};
use state::{Decision, State};

/// What a supervisor can be told.
pub enum SupervisorMessage {
    /// Start a child and remember it.
    StartChild(Box<ChildSpec>, Reply<Result<(), StartChildError>>),
    /// Stop a child and forget it; answers whether there was one.
    StopChild(ActorPath, Reply<bool>),
    /// The wait before a restart is over.
    RestartDue(Vec<ActorPath>),
    /// Start a child again that an operator had drained.
    StartAgain(ActorPath),
}

impl Message for SupervisorMessage {
    fn name(&self) -> &'static str {
        match self {
            Self::StartChild(..) => "StartChild",
            Self::StopChild(..) => "StopChild",
            Self::RestartDue(_) => "RestartDue",
            Self::StartAgain(_) => "StartAgain",
        }
    }
}

/// Why a child was not started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartChildError {
    /// There is one at this path already.
    #[error("{0} is running already")]
    AlreadyRunning(ActorPath),
    /// It failed before it began.
    #[error("{path} could not be started: {error}")]
    Failed {
        /// Which.
        path: ActorPath,
        /// Why.
        error: String,
    },
    /// The supervisor did not answer.
    #[error(transparent)]
    Supervisor(#[from] AskError),
}

impl Coded for StartChildError {
    fn code(&self) -> Code {
        match self {
            Self::AlreadyRunning(_) | Self::Failed { .. } => Code::ActorFailed,
            Self::Supervisor(error) => error.code(),
        }
    }
}

/// Starts and stops children of a running supervisor.
#[derive(Clone, Debug)]
pub struct SupervisorHandle {
    mailbox: Mailbox<SupervisorMessage>,
}

impl SupervisorHandle {
    /// The supervisor's path, under which its children's paths lie.
    pub fn path(&self) -> &ActorPath {
        self.mailbox.path()
    }

    /// Starts a child. It has not necessarily rebuilt its state yet when this returns; messages to it wait.
    ///
    /// # Errors
    /// [`StartChildError`].
    pub async fn start_child(&self, child: ChildSpec, deadline: Deadline) -> Result<(), StartChildError> {
        self.mailbox
            .ask(
                |reply| SupervisorMessage::StartChild(Box::new(child), reply),
                deadline,
            )
            .await?
    }

    /// Stops a child and forgets it. Answers whether there was one: there is none when the supervisor itself has stopped.
    ///
    /// # Errors
    /// [`AskError`]; the child may be stopped all the same.
    pub async fn stop_child(&self, path: &ActorPath, deadline: Deadline) -> Result<bool, AskError> {
        let stopped = match self.ask_to_stop(path, deadline).await {
            // It has ended meanwhile, for good or to begin anew.
            Err(AskError::NoReply { .. }) => self.ask_to_stop(path, deadline).await,
            stopped => stopped,
        };
        match stopped {
            Err(AskError::Stopped { .. }) => Ok(false),
            stopped => stopped,
        }
    }

    async fn ask_to_stop(&self, path: &ActorPath, deadline: Deadline) -> Result<bool, AskError> {
        self.mailbox
            .ask(
                |reply| SupervisorMessage::StopChild(path.clone(), reply),
                deadline,
            )
            .await
    }
}

/// A child that lives.
struct Running {
    life: ractor::ActorCell,
    ended: JoinHandle<()>,
}

/// The supervisor itself.
pub struct Supervisor {
    shared: Arc<Shared>,
    state: State,
    running: HashMap<ActorPath, Running>,
}

impl Actor for Supervisor {
    type Message = SupervisorMessage;
    const KIND: &'static str = "supervisor";
    const SUPERVISES: bool = true;

    async fn started(&mut self, ctx: &Context<Self>) -> Result<(), ActorError> {
        let children: Vec<ChildSpec> = self.shared.children.lock().clone();
        for child in &children {
            self.state.add(child.path().clone(), child.restart);
        }
        for child in children {
            self.start_or_decide(&child, ctx).await;
        }
        Ok(())
    }

    async fn handle(&mut self, message: SupervisorMessage, ctx: &Context<Self>) -> Result<(), ActorError> {
        match message {
            SupervisorMessage::StartChild(child, reply) => reply.send(self.start_child(*child, ctx).await),
            SupervisorMessage::StopChild(path, reply) => reply.send(self.stop_and_forget(&path).await),
            SupervisorMessage::RestartDue(paths) => self.start_again(&paths, ctx).await,
            SupervisorMessage::StartAgain(path) => self.start_again(&[path], ctx).await,
        }
        Ok(())
    }

    async fn child_ended(&mut self, ended: ChildEnded, ctx: &Context<Self>) -> Result<(), ActorError> {
        let path = self
            .running
            .iter()
            .find(|(_, running)| running.life.get_id() == ended.life);
        // A child that this supervisor stopped itself is not among the running any more.
        if let Some(path) = path.map(|(path, _)| path.clone()) {
            self.running.remove(&path);
            self.decide(&path, ctx).await;
        }
        Ok(())
    }

    async fn stopped(&mut self, reason: &ExitReason) {
        let will_return = !reason.is_clean();
        let children: Vec<ChildSpec> = self.shared.children.lock().clone();
        for child in children.iter().rev() {
            self.stop(child).await;
            if will_return {
                child.pause_for_restart();
            } else {
                child.close();
            }
        }
    }

    fn snapshot(&self) -> serde_json::Value {
        let shared = &self.shared;
        json!({
            "strategy": format!("{:?}", shared.strategy),
            "restarts_max": shared.intensity.restarts_max,
            "within_ms": shared.intensity.within.as_millis() as u64,
            "restarts_in_window": self.state.restarts_in_window(),
            "children": self.state.len(),
            "running": self.running.len(),
        })
    }
}

impl Supervisor {
    fn new(shared: Arc<Shared>) -> Self {
        let state = State::new(shared.strategy, shared.intensity, shared.backoff);
        Self {
            shared,
            state,
            running: HashMap::new(),
        }
    }

    fn spec(&self, path: &ActorPath) -> Option<ChildSpec> {
        self.shared
            .children
            .lock()
            .iter()
            .find(|child| child.path() == path)
            .cloned()
    }

    async fn start(&mut self, child: &ChildSpec, ctx: &Context<Self>) -> Result<(), ActorError> {
        let Spawned { life, ended } = child.spawn(Some(ctx.life.clone()), Some(ctx.mailbox())).await?;
        self.running.insert(child.path().clone(), Running { life, ended });
        Ok(())
    }

    async fn start_or_decide(&mut self, child: &ChildSpec, ctx: &Context<Self>) {
        if let Err(error) = self.start(child, ctx).await {
            let error = error.to_string();
            child.record().failed("start", error.clone());
            child.record().will_exit(ExitReason::StartFailed { error });
            Box::pin(self.decide(child.path(), ctx)).await;
        }
    }

    async fn start_child(&mut self, child: ChildSpec, ctx: &Context<Self>) -> Result<(), StartChildError> {
        let path = child.path().clone();
        if self.running.contains_key(&path) || self.spec(&path).is_some() {
            return Err(StartChildError::AlreadyRunning(path));
        }
        match self.start(&child, ctx).await {
            Ok(()) => {
                self.state.add(path, child.restart);
                self.shared.children.lock().push(child);
                Ok(())
            }
            Err(error) => {
                child.close();
                Err(StartChildError::Failed {
                    path,
                    error: error.to_string(),
                })
            }
        }
    }

    async fn start_again(&mut self, paths: &[ActorPath], ctx: &Context<Self>) {
        for path in paths {
            let Some(child) = self.spec(path) else { continue };
            if !self.running.contains_key(path) {
                self.start_or_decide(&child, ctx).await;
            }
        }
    }

    async fn stop_and_forget(&mut self, path: &ActorPath) -> bool {
        let Some(child) = self.spec(path) else {
            return false;
        };
        self.stop(&child).await;
        self.forget(&child);
        true
    }

    fn forget(&mut self, child: &ChildSpec) {
        self.state.remove(child.path());
        self.shared
            .children
            .lock()
            .retain(|known| known.path() != child.path());
        child.close();
    }

    /// Ends a child if it runs: after the message in hand, or, when that takes too long, in the middle of it.
    async fn stop(&mut self, child: &ChildSpec) {
        let Some(Running { life, mut ended }) = self.running.remove(child.path()) else {
            return;
        };
        child.port.set_suspended(false);
        child.port.control(Control::Stop(ExitReason::Shutdown));
        if tokio::time::timeout(child.stop_within, &mut ended).await.is_err() {
            tracing::warn!(actor = %child.path(), "did not stop in time and is killed");
            life.kill();
            let _ = tokio::time::timeout(KILLED_WITHIN, ended).await;
        }
        child.record().exited();
    }

    async fn decide(&mut self, path: &ActorPath, ctx: &Context<Self>) {
        let Some(child) = self.spec(path) else { return };
        let reason = child.record().exited();
        tracing::warn!(actor = %path, %reason, "actor ended");
        match self
            .state
            .child_ended(path, &reason, Instant::now(), fastrand::f64())
        {
            Decision::Leave => child.close(),
            Decision::Forget => self.forget(&child),
            Decision::GiveUp(reason) => ctx.stop_with(reason),
            Decision::Restart { children, after } => self.restart(&children, after, ctx).await,
        }
    }

    async fn restart(&mut self, paths: &[ActorPath], after: Duration, ctx: &Context<Self>) {
        for path in paths.iter().rev() {
            let Some(child) = self.spec(path) else { continue };
            self.stop(&child).await;
            child.pause_for_restart();
        }
        if after.is_zero() {
            Box::pin(self.start_again(paths, ctx)).await;
        } else {
            ctx.send_after(after, SupervisorMessage::RestartDue(paths.to_vec()));
        }
    }
}

/// How long a killed child may take to be gone: it may be inside code that does not yield.
const KILLED_WITHIN: Duration = Duration::from_secs(1);

impl ChildSpec {
    fn pause_for_restart(&self) {
        if self.record().phase() != Phase::Stopped {
            self.record().set_phase(Phase::Restarting);
            self.port.pause_for_restart();
        }
    }

    fn close(&self) {
        self.record().set_phase(Phase::Stopped);
        self.port.close();
        self.system.directory().bury(self.record().id);
    }
}

#[cfg(test)]
mod tests;
