//! Whose tasks are whose, and what their servers ask of them. Pure but for the lock.
//!
//! To a server all clients here are one, so that nobody may be shown another's tasks. What is known here is known of this
//! node's calls alone: the id of a task that another node's client began is as good as its secrecy.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use troupe_protocol::mcp::Profile;
use troupe_protocol::server::ServerName;

use crate::upstream::Question;

/// Tasks that are remembered; the oldest are forgotten.
const TASKS_MAX: usize = 10_000;
/// What the server of one task may ask at a time.
const QUESTIONS_MAX: usize = 16;

type Key = (ServerName, Box<str>);

/// A task of a client of this node.
#[derive(Debug, Clone)]
pub(super) struct Task {
    /// Whose it is.
    pub owner: Arc<str>,
    /// What the client could do when it began it: a legacy server knows the task on that connection.
    pub profile: Profile,
    pub wishes: Arc<Wishes>,
}

/// The tasks that were begun here.
#[derive(Default)]
pub(in crate::session) struct TaskTable(Mutex<Tasks>);

#[derive(Default)]
struct Tasks {
    by_key: HashMap<Key, Task>,
    oldest_first: VecDeque<Key>,
}

/// Somebody else's task is as one that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotYours;

impl TaskTable {
    /// Notes a task that has begun.
    pub fn begun(&self, server: &ServerName, id: &str, owner: &str, profile: Profile) {
        let key = (server.clone(), Box::from(id));
        let task = Task {
            owner: owner.into(),
            profile,
            wishes: Arc::default(),
        };
        let mut tasks = self.0.lock();
        if tasks.by_key.insert(key.clone(), task).is_none() {
            tasks.oldest_first.push_back(key);
        }
        while tasks.oldest_first.len() > TASKS_MAX {
            if let Some(oldest) = tasks.oldest_first.pop_front() {
                tasks.by_key.remove(&oldest);
            }
        }
    }

    /// A task, if it was begun here.
    ///
    /// # Errors
    /// [`NotYours`] if somebody else began it.
    pub(super) fn find(&self, server: &ServerName, id: &str, owner: &str) -> Result<Option<Task>, NotYours> {
        let key = (server.clone(), Box::from(id));
        match self.0.lock().by_key.get(&key) {
            Some(task) if *task.owner == *owner => Ok(Some(task.clone())),
            Some(_) => Err(NotYours),
            None => Ok(None),
        }
    }
}

/// What a legacy server asks for a task, until it is answered.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    open: Mutex<Open>,
    /// Something was asked.
    pub asked: Notify,
}

#[derive(Debug, Default)]
struct Open {
    questions: BTreeMap<String, Question>,
    is_listening: bool,
}

impl Wishes {
    /// Whether the caller is now the one who listens to what the server asks.
    pub fn begin_listening(&self) -> bool {
        !std::mem::replace(&mut self.open.lock().is_listening, true)
    }

    /// Nobody listens any more: what is open is answered as it goes.
    pub fn end_listening(&self) {
        let left = {
            let mut open = self.open.lock();
            open.is_listening = false;
            std::mem::take(&mut open.questions)
        };
        drop(left);
    }

    pub fn ask(&self, question: Question) {
        let mut open = self.open.lock();
        if open.questions.len() >= QUESTIONS_MAX {
            drop(open);
            question.fail("too much is asked for this task already");
            return;
        }
        open.questions.insert(question.key(), question);
        drop(open);
        self.asked.notify_waiters();
    }

    /// The open questions, each written by `write`.
    pub fn each(&self, mut write: impl FnMut(&str, &Question)) {
        for (key, question) in &self.open.lock().questions {
            write(key, question);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.open.lock().questions.is_empty()
    }

    /// The question of this key, to be answered.
    pub fn take(&self, key: &str) -> Option<Question> {
        self.open.lock().questions.remove(key)
    }

    pub fn keys(&self) -> Vec<String> {
        self.open.lock().questions.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::upstream::question_for_test as question;

    fn server(name: &str) -> ServerName {
        ServerName::new(name).unwrap()
    }

    #[test]
    fn a_task_is_its_owners_alone() {
        let table = TaskTable::default();
        table.begun(&server("a"), "t", "ann", Profile::NONE);
        assert!(table.find(&server("a"), "t", "ann").unwrap().is_some());
        assert_eq!(table.find(&server("a"), "t", "bob").unwrap_err(), NotYours);
        assert!(table.find(&server("b"), "t", "bob").unwrap().is_none());
    }

    #[test]
    fn so_many_tasks_are_remembered() {
        let table = TaskTable::default();
        for number in 0..=TASKS_MAX {
            table.begun(&server("a"), &number.to_string(), "ann", Profile::NONE);
        }
        assert!(table.find(&server("a"), "0", "ann").unwrap().is_none());
        assert!(table.find(&server("a"), "1", "ann").unwrap().is_some());
    }

    #[test]
    fn what_is_asked_for_a_task_is_answered_by_its_key_or_when_nobody_listens() {
        let wishes = Wishes::default();
        assert!(wishes.begin_listening() && !wishes.begin_listening());
        let (form, form_answer) = question("elicitation/create");
        let (model, model_answer) = question("sampling/createMessage");
        wishes.ask(form);
        wishes.ask(model);
        assert_eq!(wishes.keys(), ["elicitation/create", "sampling/createMessage"]);
        wishes.take("elicitation/create").unwrap().fail("no");
        assert!(form_answer.lock().is_some());
        wishes.end_listening();
        assert!(model_answer.lock().is_some() && wishes.is_empty());
        assert!(wishes.begin_listening());
    }
}
