//! Asking: finds who owns an address, and goes on looking while it moves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use troupe_protocol::cluster::{Address, Epoch};
use troupe_protocol::id::NodeId;

use super::host::{ObserveTopic, Parts};
use super::wire::{self, Head, Refusal};
use crate::cluster::error::ClusterError;
use crate::cluster::handle::{Reach, Shared};
use crate::cluster::link::{LinkError, Service, ServiceError, StreamItem};
use crate::cluster::placement::{Nowhere, Whereabouts};
use crate::runtime::Deadline;

/// How long an asker waits for an address to have an owner who can be reached, if the deadline allows.
const PATIENCE: Duration = Duration::from_secs(3);
/// As above, while this node owns it and holds no lease.
const PATIENCE_WITHOUT_LEASE: Duration = Duration::from_millis(1_500);
/// A change that is not told of (a link that comes back) is looked for this often.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// How many nodes may send a question on.
const HOPS_MAX: u8 = 3;

/// A question on its way.
struct Quest<'a> {
    shared: &'a Shared,
    address: &'a Address,
    deadline: Deadline,
    patience: Deadline,
    epochs: watch::Receiver<(Epoch, bool)>,
}

/// What became of one attempt.
enum Attempt {
    Done(Result<Bytes, ClusterError>),
    /// Nobody has acted on it; perhaps somebody will after a change.
    Again(ClusterError),
}

impl Shared {
    /// Asks whoever owns the address. Parts go to `parts`, if the asker wants them.
    pub async fn ask(
        self: &Arc<Self>,
        address: &Address,
        question: Bytes,
        deadline: Deadline,
        parts: Option<mpsc::Sender<Bytes>>,
    ) -> Result<Bytes, ClusterError> {
        let mut quest = Quest {
            shared: self,
            address,
            deadline,
            patience: deadline.earlier(Deadline::within(PATIENCE)),
            epochs: self.epochs.subscribe(),
        };
        quest.run(question, parts).await
    }
}

impl Quest<'_> {
    async fn run(
        &mut self,
        question: Bytes,
        parts: Option<mpsc::Sender<Bytes>>,
    ) -> Result<Bytes, ClusterError> {
        let mut hops = 0;
        loop {
            self.epochs.mark_unchanged();
            let attempt = match self.shared.whereabouts(self.address) {
                Whereabouts::Here(_) => self.ask_here(question.clone(), parts.clone()).await,
                Whereabouts::At(node, epoch) => {
                    let head = self.head(epoch, hops);
                    hops += 1;
                    self.ask_there(node, &head, &question, parts.as_ref()).await
                }
                Whereabouts::Nowhere(reason) => Attempt::Again(self.nowhere(reason)),
            };
            let error = match attempt {
                Attempt::Done(outcome) => return outcome,
                Attempt::Again(error) => error,
            };
            if matches!(
                error,
                ClusterError::Unreachable { .. } | ClusterError::NoQuorum { .. }
            ) {
                hops = 0; // it was on no node
            }
            if hops > HOPS_MAX || !self.wait_for_change().await {
                return Err(error);
            }
        }
    }

    fn head(&self, epoch: Epoch, hops: u8) -> Head {
        Head {
            kind: self.address.kind,
            key: self.address.key.clone(),
            epoch,
            hops,
        }
    }

    fn nowhere(&mut self, reason: Nowhere) -> ClusterError {
        let address = self.address.clone();
        match reason {
            Nowhere::NoLease => {
                self.patience = self.patience.earlier(Deadline::within(PATIENCE_WITHOUT_LEASE));
                ClusterError::NoQuorum { address }
            }
            Nowhere::Moving => self.elsewhere("its former owner may still be acting"),
            Nowhere::NobodyUp => self.elsewhere("no member is up"),
        }
    }

    fn elsewhere(&self, detail: &str) -> ClusterError {
        ClusterError::Elsewhere {
            address: self.address.clone(),
            detail: detail.to_owned(),
        }
    }

    /// False when there is no time left to wait.
    async fn wait_for_change(&mut self) -> bool {
        if self.patience.is_over() {
            return false;
        }
        let again = self.patience.earlier(Deadline::within(LOOK_AGAIN));
        let _ = tokio::time::timeout_at(again.instant(), self.epochs.changed()).await;
        true
    }

    async fn ask_here(&self, question: Bytes, parts: Option<mpsc::Sender<Bytes>>) -> Attempt {
        if self.shared.hosts.get(self.address.kind).is_none() {
            return Attempt::Again(self.elsewhere(Refusal::Starting.as_str()));
        }
        let parts = parts.map_or_else(Parts::ignored, Parts::here);
        let answer = self
            .shared
            .answer_here(self.address, question, self.deadline, parts);
        Attempt::Done(answer.await)
    }

    async fn ask_there(
        &self,
        node: NodeId,
        head: &Head,
        question: &[u8],
        parts: Option<&mpsc::Sender<Bytes>>,
    ) -> Attempt {
        #[cfg(test)]
        if self.shared.reach.get().is_none() {
            let parts = parts.cloned().map_or_else(Parts::ignored, Parts::here);
            let question = Bytes::copy_from_slice(question);
            let carried =
                crate::cluster::testkit::carry(self.shared, self.address, question, self.deadline, parts);
            return match carried.await {
                Ok(answer) => Attempt::Done(answer),
                Err(_) => Attempt::Again(self.elsewhere("it has moved here")),
            };
        }
        let Some(reach) = self.shared.reach.get() else {
            return Attempt::Again(ClusterError::Unreachable { node });
        };
        let message = match wire::with_head(head, question) {
            Ok(message) => message,
            Err(error) => return Attempt::Done(Err(ClusterError::Wire(error))),
        };
        let answer = match parts {
            None => {
                reach
                    .links
                    .ask(node, Service::Entity, message, self.deadline)
                    .await
            }
            Some(parts) => stream(reach, node, message, self.deadline, parts).await,
        };
        let outcome = match answer {
            Ok(answer) => wire::outcome(answer),
            Err(LinkError::Unreachable { node }) => {
                return Attempt::Again(ClusterError::Unreachable { node });
            }
            Err(error) => return Attempt::Done(Err(link_error(error))),
        };
        match outcome {
            Ok(Ok(answer)) => Attempt::Done(Ok(answer)),
            Ok(Err(refusal)) => Attempt::Again(self.elsewhere(refusal.as_str())),
            Err(error) => Attempt::Done(Err(ClusterError::Wire(error))),
        }
    }
}

/// Passes on the parts and gives the answer.
async fn stream(
    reach: &Reach,
    node: NodeId,
    message: Bytes,
    deadline: Deadline,
    parts: &mpsc::Sender<Bytes>,
) -> Result<Bytes, LinkError> {
    let mut stream = reach
        .links
        .stream(node, Service::Entity, message, deadline)
        .await?;
    loop {
        match stream.next().await {
            StreamItem::Part(part) => {
                // Nobody listens any more: then nobody waits for the end, either.
                let _ = parts.send(part).await;
            }
            StreamItem::End(answer) => return answer,
        }
    }
}

/// Asks another node about itself.
pub(in crate::cluster) async fn observe_there(
    reach: &Reach,
    node: NodeId,
    topic: &ObserveTopic,
    question: &[u8],
    deadline: Deadline,
) -> Result<Bytes, ClusterError> {
    let message = wire::with_head(&topic.as_str(), question).map_err(ClusterError::Wire)?;
    let answer = reach.links.ask(node, Service::Observe, message, deadline).await;
    answer.map_err(link_error)
}

/// As [`observe_there`], for an answer in parts.
pub(in crate::cluster) async fn observe_stream(
    reach: &Reach,
    node: NodeId,
    topic: &ObserveTopic,
    question: &[u8],
    deadline: Deadline,
    parts: &mpsc::Sender<Bytes>,
) -> Result<Bytes, ClusterError> {
    let message = wire::with_head(&topic.as_str(), question).map_err(ClusterError::Wire)?;
    let stream = reach
        .links
        .stream(node, Service::Observe, message, deadline)
        .await;
    let mut stream = stream.map_err(link_error)?;
    loop {
        match stream.next().await {
            StreamItem::Part(part) => {
                let _ = parts.send(part).await;
            }
            StreamItem::End(answer) => return answer.map_err(link_error),
        }
    }
}

fn link_error(error: LinkError) -> ClusterError {
    match error {
        LinkError::Unreachable { node } => ClusterError::Unreachable { node },
        LinkError::Lost { node } => ClusterError::Lost { node },
        LinkError::DeadlineExceeded { .. } => ClusterError::DeadlineExceeded,
        LinkError::Overloaded { node } => ClusterError::Overloaded { node },
        error @ LinkError::TooLarge { .. } => ClusterError::Wire(error.to_string()),
        LinkError::Remote { code, detail } => ClusterError::Refused(ServiceError::new(code, detail)),
    }
}
