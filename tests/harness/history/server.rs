//! The registry's entry of one server, as clients see it: there or not, and the one value that was last put into it.

use super::linear::Model;

/// What is asked of the entry. Values are unique in a history, so that a read tells which write it saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    Register(u64),
    Change(u64),
    Remove,
    Read,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Registered, changed or removed.
    Done,
    /// Not registered: there is one already.
    Exists,
    /// Neither changed nor removed: there is none.
    Missing,
    /// What a read saw.
    Value(Option<u64>),
}

/// A server's entry.
pub struct Entry;

impl Model for Entry {
    type State = Option<u64>;
    type Question = Question;
    type Answer = Answer;

    fn initial() -> Self::State {
        None
    }

    fn step(state: &Self::State, question: &Question, answer: Option<&Answer>) -> Option<Self::State> {
        let (next, said) = match (*question, *state) {
            (Question::Register(value), None) | (Question::Change(value), Some(_)) => {
                (Some(value), Answer::Done)
            }
            (Question::Register(_), Some(_)) => (*state, Answer::Exists),
            (Question::Remove, Some(_)) => (None, Answer::Done),
            (Question::Change(_) | Question::Remove, None) => (None, Answer::Missing),
            (Question::Read, _) => (*state, Answer::Value(*state)),
        };
        answer.is_none_or(|answer| *answer == said).then_some(next)
    }
}
