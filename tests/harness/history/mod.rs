//! Histories: what clients asked of a cluster, when, and what they were answered; and what such a history must hold.
//!
//! # Layout
//! - here: recording, by any number of clients at once
//! - [`linear`]: is there an order of all operations, one at a time, that explains every answer? (linearizability,
//!   Herlihy and Wing 1990)
//! - [`server`]: the registry's entry of one server as a sequential object
//! - [`order`]: checks that need no search: views that never go back, acknowledged additions that are all there

pub mod linear;
pub mod order;
pub mod server;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What became of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<Answer> {
    /// It happened and was answered.
    Done(Answer),
    /// It certainly did not happen.
    Refused,
    /// It may have happened at any time since it was asked for, or may yet happen, or never.
    Unknown,
}

/// One operation on one key, from asking to answer. Times are microseconds since the history began.
#[derive(Debug, Clone)]
pub struct Operation<Question, Answer> {
    /// Which client asked.
    pub client: usize,
    /// What it is about; operations on different keys are independent of each other.
    pub key: String,
    pub question: Question,
    pub outcome: Outcome<Answer>,
    pub invoked_us: u64,
    pub ended_us: u64,
}

/// Records operations of many clients at once. Cheap to clone; all clones write the same history.
pub struct Recorder<Question, Answer> {
    began: Instant,
    operations: Arc<Mutex<Vec<Operation<Question, Answer>>>>,
}

impl<Question, Answer> Clone for Recorder<Question, Answer> {
    fn clone(&self) -> Self {
        Self {
            began: self.began,
            operations: Arc::clone(&self.operations),
        }
    }
}

impl<Question, Answer> Default for Recorder<Question, Answer> {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            operations: Arc::default(),
        }
    }
}

impl<Question: Clone, Answer: Clone> Recorder<Question, Answer> {
    /// Notes that a client asks now. Without an end the outcome stays unknown.
    pub fn invoke(&self, client: usize, key: &str, question: Question) -> Pending<Question, Answer> {
        let now_us = self.now_us();
        let operation = Operation {
            client,
            key: key.to_owned(),
            question,
            outcome: Outcome::Unknown,
            invoked_us: now_us,
            ended_us: now_us,
        };
        let mut operations = self.operations.lock().expect("no recorder panics");
        operations.push(operation);
        Pending {
            recorder: self.clone(),
            index: operations.len() - 1,
        }
    }

    /// What was recorded so far.
    pub fn operations(&self) -> Vec<Operation<Question, Answer>> {
        self.operations.lock().expect("no recorder panics").clone()
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("a test ends within half a million years")
    }
}

/// An operation that has not ended yet.
pub struct Pending<Question, Answer> {
    recorder: Recorder<Question, Answer>,
    index: usize,
}

impl<Question: Clone, Answer: Clone> Pending<Question, Answer> {
    /// Notes that it ended now.
    pub fn end(self, outcome: Outcome<Answer>) {
        let ended_us = self.recorder.now_us();
        let mut operations = self.recorder.operations.lock().expect("no recorder panics");
        let operation = &mut operations[self.index];
        operation.outcome = outcome;
        operation.ended_us = ended_us;
    }
}
