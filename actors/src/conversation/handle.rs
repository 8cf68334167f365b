//! With what the rest of the node reaches conversations.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::broadcast;
use troupe_protocol::access::Principal;
use troupe_protocol::conversation::{
    AskAnswer, Conversation, ConversationEvent, ConversationSummary, Turn, UserInput,
};
use troupe_protocol::error::Code;
use troupe_protocol::event::FlowEvent;
use troupe_protocol::id::{ActorPath, ConversationId, TurnId};
use troupe_protocol::time::Timestamp;
use troupe_protocol::wire::AsJson;
use ulid::Ulid;

use super::ConversationActor;
use super::caller::ToolCaller;
use super::error::ConversationError;
use super::keeper::{Keeper, KeeperMessage};
use super::messages::ConversationMessage;
use super::placed::{Answer, ConversationsHost, Question};
use super::record::{ConversationRecord, ConversationTrees, Owner};
use super::shared::Shared;
use crate::cluster::ClusterHandle;
use crate::router::RouterHandle;
use crate::runtime::{
    AskError, ChildSpec, Deadline, Mailbox, Reply, Restart, StartChildError, SupervisorSpec, System, trace,
};
use crate::store::Store;
use crate::store::replicated::nudge;

/// Messages that wait for one conversation.
const MAILBOX_MESSAGES_MAX: u32 = 64;
/// Flow events of all conversations that a slow watcher may be behind.
const FLOW_EVENTS_MAX: usize = 1_024;
/// How long an actor may take to answer, its start included.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a conversation that another node has opened may take to be known here.
const KNOWN_WITHIN: Duration = Duration::from_millis(500);
/// How often it is looked whether it is.
const KNOWN_LOOK: Duration = Duration::from_millis(10);
/// Longest text of a message, in bytes.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;
/// Longest title, in bytes.
pub const TITLE_BYTES_MAX: usize = 200;
/// Most conversations of one owner; the oldest that is not pinned goes when another is opened.
pub const CONVERSATIONS_PER_OWNER_MAX: usize = 1_000;

/// What conversations need.
#[derive(Clone)]
pub struct ConversationServices {
    /// Where they are kept.
    pub store: Store,
    /// Chooses tools.
    pub router: RouterHandle,
    /// Calls tools.
    pub caller: Arc<dyn ToolCaller>,
    /// How long one tool call may take.
    pub call_within: Duration,
    /// Which node has which conversation.
    pub cluster: ClusterHandle,
}

/// Reaches every conversation. Cheap to clone.
///
/// A conversation belongs to the key (or name) that opened it; for everybody else it does not exist.
#[derive(Clone)]
pub struct ConversationsHandle {
    pub(super) shared: Arc<Shared>,
}

impl std::fmt::Debug for ConversationsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ConversationsHandle({} conversations)",
            self.shared.records.read().len()
        )
    }
}

impl ConversationsHandle {
    /// The family under a supervisor at `path`, and its handle, before the start. Reads the list of conversations.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn build(
        system: &System,
        path: ActorPath,
        services: ConversationServices,
    ) -> Result<(Self, ChildSpec), ConversationError> {
        let trees = ConversationTrees::open(&services.store);
        let feed = trees.follow();
        let records = trees
            .conversations()?
            .into_iter()
            .map(|record| (record.summary.id, record))
            .collect();
        let keeper = Mailbox::new(system, path.child(".keeper"), MAILBOX_MESSAGES_MAX);
        let supervisor = SupervisorSpec::new(system, path);
        let shared = Arc::new(Shared {
            system: system.clone(),
            services,
            trees,
            flow: broadcast::Sender::new(FLOW_EVENTS_MAX),
            records: RwLock::new(records),
            supervisor: supervisor.handle(),
            channels: Mutex::default(),
            live: tokio::sync::Mutex::default(),
            live_count: AtomicUsize::new(0),
            keeper: keeper.clone(),
            followed: Mutex::default(),
            feed: Mutex::new(feed),
        });
        ConversationsHost::register(&shared);
        let handle = Self { shared };
        let of_keeper = handle.clone();
        let child = ChildSpec::actor(keeper, move || Keeper::new(of_keeper.clone()));
        Ok((handle, ChildSpec::supervisor(supervisor.child(child))))
    }

    /// Opens a conversation.
    ///
    /// # Errors
    /// When it cannot be stored.
    pub async fn open(&self, principal: &Principal) -> Result<ConversationSummary, ConversationError> {
        let owner = Owner::of(principal);
        self.make_room(&owner).await?;
        let now = Timestamp::from(jiff::Timestamp::now());
        let summary = ConversationSummary {
            id: ConversationId::from_ulid(Ulid::generate()),
            title: String::new(),
            pinned: false,
            created_at: now,
            updated_at: now,
            turns: 0,
        };
        let record = ConversationRecord {
            owner,
            summary: summary.clone(),
        };
        self.shared.trees.put(&record).await?;
        self.shared.records.write().insert(summary.id, record);
        Ok(summary)
    }

    /// Says something in a conversation. Its answer comes as events.
    ///
    /// # Errors
    /// When there is no such conversation, it is still answering, or the text is empty or too long.
    pub async fn say(
        &self,
        id: ConversationId,
        input: UserInput,
        principal: &Principal,
    ) -> Result<TurnId, ConversationError> {
        self.check_owner(id, principal).await?;
        check_length("text", input.text.trim(), TEXT_BYTES_MAX)?;
        let turn_id = TurnId::from_ulid(Ulid::generate());
        let correlation_id =
            trace::current().map_or_else(trace::new_correlation_id, |context| context.correlation_id);
        let said = Question::Say {
            turn_id,
            correlation_id,
            text: input.text.trim().to_owned(),
            principal: AsJson(principal.clone()),
        };
        match self.question(id, said).await? {
            Answer::Said(turn_id) => Ok(turn_id),
            _ => Err(ConversationError::unexpected()),
        }
    }

    /// Opens a conversation (or goes on in one), says something and waits for the answer.
    ///
    /// # Errors
    /// As [`open`](Self::open) and [`say`](Self::say); when the answer does not come in time the conversation goes on
    /// without a listener.
    pub async fn ask(
        &self,
        text: &str,
        conversation_id: Option<ConversationId>,
        principal: &Principal,
        deadline: Deadline,
    ) -> Result<AskAnswer, ConversationError> {
        let id = match conversation_id {
            Some(id) => id,
            None => self.open(principal).await?.id,
        };
        self.check_owner(id, principal).await?;
        let mut events = self.subscribe(id, principal)?;
        let turn_id = self
            .say(
                id,
                UserInput {
                    text: text.to_owned(),
                },
                principal,
            )
            .await?;
        let ended = async {
            loop {
                match events.recv().await {
                    Ok(ConversationEvent::TurnEnded { turn }) if turn.id == turn_id => return Ok(turn),
                    Ok(ConversationEvent::Deleted) => return Err(ConversationError::Deleted(id)),
                    Ok(_) => {}
                    // Events were missed, perhaps the one that is waited for: look.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        if let Some(turn) = self.ended_turn(id, turn_id, principal).await? {
                            return Ok(turn);
                        }
                    }
                    Err(broadcast::error::RecvError::Closed) => return Err(ConversationError::Deleted(id)),
                }
            }
        };
        let turn = tokio::time::timeout_at(deadline.instant(), ended)
            .await
            .map_err(|_| ConversationError::DeadlineExceeded(id))??;
        Ok(AskAnswer {
            conversation_id: id,
            turn,
        })
    }

    /// What happens in a conversation from now on. Who is too slow and misses events reads the conversation again.
    ///
    /// # Errors
    /// When there is no such conversation.
    pub fn subscribe(
        &self,
        id: ConversationId,
        principal: &Principal,
    ) -> Result<broadcast::Receiver<ConversationEvent>, ConversationError> {
        let is_own = |record: ConversationRecord| record.owner == Owner::of(principal);
        if !self.shared.record(id).is_some_and(is_own) {
            return Err(ConversationError::NotFound(id));
        }
        let events = self.shared.channel(id).subscribe();
        self.shared.follow(id);
        Ok(events)
    }

    /// The steps of all turns of all conversations from now on, for those who observe the node.
    pub fn flow(&self) -> broadcast::Receiver<FlowEvent> {
        self.shared.flow.subscribe()
    }

    /// A conversation with its turns.
    ///
    /// # Errors
    /// When there is no such conversation, or its actor cannot be started.
    pub async fn get(
        &self,
        id: ConversationId,
        principal: &Principal,
    ) -> Result<Conversation, ConversationError> {
        self.check_owner(id, principal).await?;
        match self.question(id, Question::Read).await? {
            Answer::Whole(conversation) => Ok(*conversation),
            _ => Err(ConversationError::unexpected()),
        }
    }

    /// The principal's conversations: pinned ones first, then the latest.
    pub fn list(&self, principal: &Principal) -> Vec<ConversationSummary> {
        let owner = Owner::of(principal);
        let records = self.shared.records.read();
        let own = records.values().filter(|record| record.owner == owner);
        let mut summaries: Vec<ConversationSummary> = own.map(|record| record.summary.clone()).collect();
        summaries.sort_by_key(|summary| (!summary.pinned, std::cmp::Reverse(summary.updated_at)));
        summaries
    }

    /// Changes title or pin.
    ///
    /// # Errors
    /// When there is no such conversation, the title is empty or too long, or it cannot be stored.
    pub async fn change(
        &self,
        id: ConversationId,
        title: Option<String>,
        pinned: Option<bool>,
        principal: &Principal,
    ) -> Result<ConversationSummary, ConversationError> {
        self.check_owner(id, principal).await?;
        let title = title.map(|title| title.trim().to_owned());
        if let Some(title) = &title {
            check_length("title", title, TITLE_BYTES_MAX)?;
        }
        match self.question(id, Question::Change { title, pinned }).await? {
            Answer::Changed(summary) => Ok(summary),
            _ => Err(ConversationError::unexpected()),
        }
    }

    /// Deletes a conversation; a running call is cancelled.
    ///
    /// # Errors
    /// When there is no such conversation, or it cannot be removed from the disk.
    pub async fn delete(&self, id: ConversationId, principal: &Principal) -> Result<(), ConversationError> {
        self.check_owner(id, principal).await?;
        self.remove(id).await
    }

    /// Cancels the running turn. Answers whether there was one.
    ///
    /// # Errors
    /// When there is no such conversation, or its actor does not answer.
    pub async fn cancel(&self, id: ConversationId, principal: &Principal) -> Result<bool, ConversationError> {
        self.check_owner(id, principal).await?;
        match self.question(id, Question::Cancel).await? {
            Answer::Cancelled(was_running) => Ok(was_running),
            _ => Err(ConversationError::unexpected()),
        }
    }

    /// Wakes the keeper when conversations have changed, until it ends.
    pub(super) async fn nudge_keeper(&self) {
        let feed = self.shared.trees.follow();
        nudge(feed, self.shared.keeper.clone(), || KeeperMessage::RecordsChanged).await;
    }

    /// Conversations may have come to this node: those that were interrupted go on here.
    pub(super) fn take_over(&self) {
        // A refusal is on record as a dead letter; who asks starts a conversation as well.
        let _ = self.shared.keeper.tell(KeeperMessage::TakeOver);
    }

    /// Starts the actors of conversations that were interrupted and are this node's: they go on by themselves.
    pub(super) async fn resume_unfinished(&self) -> Result<(), ConversationError> {
        for (id, _) in self.shared.trees.unfinished()? {
            if !self.is_here(id) {
                continue;
            }
            let is_known = self.shared.records.read().contains_key(&id);
            if is_known {
                self.mailbox(id).await?;
            } else {
                self.shared.trees.end(id).await?;
            }
        }
        Ok(())
    }

    async fn ended_turn(
        &self,
        id: ConversationId,
        turn_id: TurnId,
        principal: &Principal,
    ) -> Result<Option<Turn>, ConversationError> {
        let conversation = self.get(id, principal).await?;
        Ok(conversation
            .history
            .into_iter()
            .find(|turn| turn.id == turn_id && turn.status.is_final()))
    }

    async fn remove(&self, id: ConversationId) -> Result<(), ConversationError> {
        match self.question(id, Question::Remove).await? {
            Answer::Removed => Ok(()),
            _ => Err(ConversationError::unexpected()),
        }
    }

    /// Removes a conversation that this node has.
    pub(super) async fn remove_here(&self, id: ConversationId) -> Result<(), ConversationError> {
        let mailbox = self.shared.take_live(id).await;
        if let Some(mailbox) = mailbox {
            self.shared
                .supervisor
                .stop_child(mailbox.path(), Deadline::within(ANSWER_WITHIN))
                .await?;
        }
        self.shared.records.write().remove(&id);
        self.shared.trees.remove(id).await?;
        if let Some(channel) = self.shared.channels.lock().remove(&id) {
            // Without watchers there is nobody to tell.
            let _ = channel.send(ConversationEvent::Deleted);
        }
        Ok(())
    }

    async fn make_room(&self, owner: &Owner) -> Result<(), ConversationError> {
        let oldest = {
            let records = self.shared.records.read();
            let own: Vec<&ConversationSummary> = records
                .values()
                .filter(|record| record.owner == *owner)
                .map(|record| &record.summary)
                .collect();
            let is_full = own.len() >= CONVERSATIONS_PER_OWNER_MAX;
            let unpinned = own
                .iter()
                .filter(|summary| !summary.pinned)
                .min_by_key(|summary| summary.updated_at);
            let oldest = unpinned.or_else(|| own.iter().min_by_key(|summary| summary.updated_at));
            oldest.filter(|_| is_full).map(|summary| summary.id)
        };
        match oldest {
            Some(id) => self.remove(id).await,
            None => Ok(()),
        }
    }

    /// Whether the conversation is this principal's. One that was opened on another node a moment ago may not be known
    /// here yet.
    async fn check_owner(&self, id: ConversationId, principal: &Principal) -> Result<(), ConversationError> {
        let owner = Owner::of(principal);
        let is_alone = self.shared.services.cluster.membership().members.len() <= 1;
        let until = tokio::time::Instant::now() + KNOWN_WITHIN;
        loop {
            let known = self.shared.record(id).map(|record| record.owner == owner);
            match known {
                Some(true) => return Ok(()),
                None if !is_alone && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(KNOWN_LOOK).await;
                }
                Some(false) | None => return Err(ConversationError::NotFound(id)),
            }
        }
    }

    pub(super) async fn ask_actor<T: Send>(
        &self,
        id: ConversationId,
        question: impl FnOnce(Reply<T>) -> ConversationMessage,
    ) -> Result<T, ConversationError> {
        let deadline = Deadline::within(ANSWER_WITHIN);
        let (reply, answer) = Reply::channel();
        let mailbox = self.mailbox(id).await?;
        let message = question(reply);
        let name = crate::runtime::Message::name(&message);
        let actor = mailbox.path().clone();
        mailbox.tell(message).map_err(|error| match error {
            crate::runtime::SendError::Overloaded { actor, messages_max } => {
                AskError::Overloaded { actor, messages_max }
            }
            crate::runtime::SendError::Stopped { actor } => AskError::Stopped { actor },
        })?;
        match tokio::time::timeout_at(deadline.instant(), answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(AskError::NoReply { actor, message: name }.into()),
            Err(_) => Err(AskError::DeadlineExceeded { actor, message: name }.into()),
        }
    }

    /// Starts an actor. One that nobody reaches any more, since it was idle and is about to end, makes way first.
    async fn start(&self, spec: ChildSpec) -> Result<(), ConversationError> {
        let supervisor = &self.shared.supervisor;
        let deadline = Deadline::within(ANSWER_WITHIN);
        let path = match supervisor.start_child(spec.clone(), deadline).await {
            Err(StartChildError::AlreadyRunning(path)) => path,
            started => return Ok(started?),
        };
        supervisor.stop_child(&path, deadline).await?;
        Ok(supervisor.start_child(spec, deadline).await?)
    }

    /// The conversation's mailbox; its actor is started if need be.
    async fn mailbox(&self, id: ConversationId) -> Result<Mailbox<ConversationMessage>, ConversationError> {
        let mut live = self.shared.live.lock().await;
        // Looked at under the lock: what is given away is taken out under it, after the change.
        if !self.is_here(id) {
            let detail = format!("conversation {id} is not, or not yet, this node's");
            return Err(ConversationError::Elsewhere {
                code: Code::PlacedElsewhere,
                detail,
            });
        }
        if let Some(mailbox) = live.get(&id) {
            return Ok(mailbox.clone());
        }
        let path = self.shared.supervisor.path().child(id);
        let mailbox = Mailbox::new(&self.shared.system, path, MAILBOX_MESSAGES_MAX);
        let of_actor = Arc::clone(&self.shared);
        let spec = ChildSpec::actor(mailbox.clone(), move || {
            ConversationActor::new(id, Arc::clone(&of_actor))
        })
        .restart(Restart::Transient);
        self.start(spec).await?;
        live.insert(id, mailbox.clone());
        self.shared.live_count.store(live.len(), Ordering::Relaxed);
        Ok(mailbox)
    }
}

fn check_length(field: &'static str, text: &str, bytes_max: usize) -> Result<(), ConversationError> {
    let bytes = text.len();
    if (1..=bytes_max).contains(&bytes) {
        return Ok(());
    }
    Err(ConversationError::InvalidText {
        field,
        bytes,
        bytes_max,
    })
}
