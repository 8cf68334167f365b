//! Linearizability of recorded histories: the search of Wing and Gong (1993) with the memory of Lowe (2017), key by
//! key, which is enough because linearizability is local.
//!
//! An operation takes effect at one moment between question and answer. Whose outcome is unknown may take effect at
//! any moment after the question, or never.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;

use super::{Operation, Outcome};

/// States that the search may visit for one key; beyond them it gives up rather than run for ever.
const STATES_MAX: usize = 5_000_000;

/// An object that does one operation at a time.
pub trait Model {
    type State: Clone + Eq + Hash + fmt::Debug;
    type Question: Clone + fmt::Debug;
    type Answer: Clone + fmt::Debug;

    /// Before any operation.
    fn initial() -> Self::State;

    /// The state after `question`, if in `state` it may be answered so; `None` for `answer` is any answer at all.
    fn step(
        state: &Self::State,
        question: &Self::Question,
        answer: Option<&Self::Answer>,
    ) -> Option<Self::State>;
}

/// Why a history was not accepted.
#[derive(Debug)]
pub enum Rejected {
    /// No order explains the answers on this key; the text shows its operations.
    NotLinearizable { key: String, shown: String },
    /// The search was given up: too many operations with unknown outcome on one key.
    TooHard { key: String, operations: usize },
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLinearizable { key, shown } => write!(f, "{key} is not linearizable:\n{shown}"),
            Self::TooHard { key, operations } => {
                write!(
                    f,
                    "{key}: no verdict on {operations} operations after {STATES_MAX} states"
                )
            }
        }
    }
}

/// Checks a history of `M`s, one for each key.
///
/// # Errors
/// The first key, in alphabetical order, on which no order of the operations explains the answers.
pub fn check<M: Model>(history: &[Operation<M::Question, M::Answer>]) -> Result<(), Rejected> {
    let mut keys: BTreeMap<&str, OfOneKey<'_, M>> = BTreeMap::new();
    for operation in history {
        if !matches!(operation.outcome, Outcome::Refused) {
            keys.entry(&operation.key).or_default().push(operation);
        }
    }
    keys.into_iter().try_for_each(|(key, operations)| {
        Search::<M>::over(operations)
            .run()
            .map_err(|failure| match failure {
                Failure::NoOrder(shown) => Rejected::NotLinearizable {
                    key: key.to_owned(),
                    shown,
                },
                Failure::TooHard(operations) => Rejected::TooHard {
                    key: key.to_owned(),
                    operations,
                },
            })
    })
}

/// The operations on one key.
type OfOneKey<'a, M> = Vec<&'a Operation<<M as Model>::Question, <M as Model>::Answer>>;

enum Failure {
    NoOrder(String),
    TooHard(usize),
}

/// Which operations are placed already, a bit for each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Placed(Vec<u64>);

impl Placed {
    fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }

    fn with(&self, index: usize) -> Self {
        let mut more = self.clone();
        more.0[index / 64] |= 1 << (index % 64);
        more
    }

    /// Those that are also in `mask`, and the others.
    fn split(&self, mask: &Self) -> (Self, Self) {
        let words = self.0.iter().zip(&mask.0);
        let (inside, outside) = words.map(|(word, mask)| (word & mask, word & !mask)).unzip();
        (Self(inside), Self(outside))
    }

    fn is_within(&self, other: &Self) -> bool {
        self.0
            .iter()
            .zip(&other.0)
            .all(|(word, other)| word & !other == 0)
    }

    fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }
}

/// A place in the search: some operations are done and the object is in this state.
struct Branch<State> {
    placed: Placed,
    state: State,
    /// Which may come next, last first.
    candidates: Vec<usize>,
}

struct Search<'a, M: Model> {
    /// By the time they were asked.
    operations: OfOneKey<'a, M>,
    /// Which of them have a known outcome.
    known: Placed,
    /// For the known operations placed and the state then: with which unknown ones that was reached.
    seen: HashMap<(Placed, M::State), Vec<Placed>>,
    states: usize,
    /// The furthest place, for the report: how many known answers were explained there.
    furthest: (usize, Placed),
}

impl<'a, M: Model> Search<'a, M> {
    fn over(mut operations: OfOneKey<'a, M>) -> Self {
        operations.sort_by_key(|operation| operation.invoked_us);
        let nothing = Placed(vec![0; operations.len().div_ceil(64)]);
        let indices = operations.iter().enumerate();
        let known = indices.filter(|(_, operation)| is_known(operation));
        let known = known.fold(nothing.clone(), |known, (index, _)| known.with(index));
        Self {
            operations,
            known,
            seen: HashMap::new(),
            states: 0,
            furthest: (0, nothing),
        }
    }

    fn run(mut self) -> Result<(), Failure> {
        let known = self.known.count();
        let nothing = self.furthest.1.clone();
        let mut path = vec![self.branch(nothing, M::initial())];
        while let Some(branch) = path.last_mut() {
            let Some(next) = branch.candidates.pop() else {
                path.pop();
                continue;
            };
            let operation = self.operations[next];
            let answer = match &operation.outcome {
                Outcome::Done(answer) => Some(answer),
                _ => None,
            };
            let Some(state) = M::step(&branch.state, &operation.question, answer) else {
                continue;
            };
            if answer.is_none() && state == branch.state {
                continue; // it changes nothing, and nobody heard of it: as if it never happened
            }
            let placed = branch.placed.with(next);
            if !self.is_new(&placed, &state) {
                continue;
            }
            if self.states > STATES_MAX {
                return Err(Failure::TooHard(self.operations.len()));
            }
            let explained = self.explained(&placed);
            if explained > self.furthest.0 {
                self.furthest = (explained, placed.clone());
            }
            if explained == known {
                return Ok(());
            }
            path.push(self.branch(placed, state));
        }
        if known == 0 {
            return Ok(());
        }
        Err(Failure::NoOrder(self.shown()))
    }

    /// Whether this place is worth going on from: not if one was seen with the same state, the same known operations
    /// and no unknown one that this one lacks, for from there whatever is possible here is possible too.
    fn is_new(&mut self, placed: &Placed, state: &M::State) -> bool {
        let (known, unknown) = placed.split(&self.known);
        let before = self.seen.entry((known, state.clone())).or_default();
        if before.iter().any(|before| before.is_within(&unknown)) {
            return false;
        }
        before.push(unknown);
        self.states += 1;
        true
    }

    /// Known answers among those placed.
    fn explained(&self, placed: &Placed) -> usize {
        placed.split(&self.known).0.count()
    }

    /// Next may come whatever was asked before the first remaining answer. Known ones are tried first: what is unknown
    /// is only placed where it is needed.
    fn branch(&self, placed: Placed, state: M::State) -> Branch<M::State> {
        let mut first_answer_us = u64::MAX;
        let mut candidates = Vec::new();
        for (index, operation) in self.operations.iter().enumerate() {
            if operation.invoked_us > first_answer_us {
                break;
            }
            if placed.has(index) {
                continue;
            }
            if is_known(operation) {
                first_answer_us = first_answer_us.min(operation.ended_us);
            }
            candidates.push(index);
        }
        candidates.retain(|index| self.operations[*index].invoked_us <= first_answer_us);
        candidates.sort_by_key(|index| {
            let operation = self.operations[*index];
            (is_known(operation), std::cmp::Reverse(operation.ended_us))
        });
        Branch {
            placed,
            state,
            candidates,
        }
    }

    fn shown(&self) -> String {
        let (_, placed) = &self.furthest;
        let mut shown =
            String::from("   from ms      to ms  client  (+: explained by the furthest order found)\n");
        for (index, operation) in self.operations.iter().enumerate() {
            let mark = if placed.has(index) { '+' } else { ' ' };
            let ended = if is_known(operation) {
                format!("{:.3}", operation.ended_us as f64 / 1e3)
            } else {
                "-".to_owned()
            };
            shown.push_str(&format!(
                "{mark}{:>9.3} {ended:>10} {:>7}  {:?} -> {:?}\n",
                operation.invoked_us as f64 / 1e3,
                operation.client,
                operation.question,
                operation.outcome
            ));
        }
        shown
    }
}

fn is_known<Question, Answer>(operation: &Operation<Question, Answer>) -> bool {
    matches!(operation.outcome, Outcome::Done(_))
}
