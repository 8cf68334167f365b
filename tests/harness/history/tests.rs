use std::collections::BTreeSet;

use proptest::prelude::*;

use super::linear::{self, Model};
use super::order::{self, Life, Seen};
use super::server::{Answer, Entry, Question};
use super::{Operation, Outcome, Recorder};

type Op = Operation<Question, Answer>;

fn op(from: u64, to: u64, question: Question, outcome: Outcome<Answer>) -> Op {
    Op {
        client: 0,
        key: "k".to_owned(),
        question,
        outcome,
        invoked_us: from,
        ended_us: to,
    }
}

fn done(from: u64, to: u64, question: Question, answer: Answer) -> Op {
    op(from, to, question, Outcome::Done(answer))
}

fn read(from: u64, to: u64, value: Option<u64>) -> Op {
    done(from, to, Question::Read, Answer::Value(value))
}

fn registered(from: u64, to: u64, value: u64) -> Op {
    done(from, to, Question::Register(value), Answer::Done)
}

fn changed(from: u64, to: u64, value: u64) -> Op {
    done(from, to, Question::Change(value), Answer::Done)
}

fn holds(history: &[Op]) -> bool {
    linear::check::<Entry>(history).is_ok()
}

#[test]
fn overlapping_operations_may_take_effect_in_either_order() {
    let before = [registered(0, 10, 1), changed(20, 50, 2), read(30, 40, Some(1))];
    let after = [registered(0, 10, 1), changed(20, 50, 2), read(30, 40, Some(2))];
    assert!(holds(&before) && holds(&after));
}

#[test]
fn a_read_after_an_acknowledged_write_sees_it() {
    assert!(!holds(&[
        registered(0, 10, 1),
        changed(20, 30, 2),
        read(40, 50, Some(1))
    ]));
    assert!(!holds(&[registered(0, 10, 1), read(20, 30, None)]));
}

#[test]
fn what_one_read_saw_the_next_sees_too() {
    let history = [
        registered(0, 10, 1),
        changed(20, 100, 2),
        read(30, 40, Some(2)),
        read(50, 60, Some(1)),
    ];
    assert!(!holds(&history));
}

#[test]
fn only_one_of_two_registers_an_absent_server() {
    assert!(!holds(&[registered(0, 100, 1), registered(0, 100, 2)]));
    let refused = done(0, 100, Question::Register(2), Answer::Exists);
    assert!(holds(&[registered(0, 100, 1), refused]));
}

#[test]
fn a_refusal_must_be_true_at_some_moment_too() {
    let removed = done(20, 30, Question::Remove, Answer::Done);
    let stale = done(40, 50, Question::Register(2), Answer::Exists);
    assert!(!holds(&[registered(0, 10, 1), removed, stale]));
}

#[test]
fn an_unknown_outcome_may_have_happened_late_or_never_but_not_twice() {
    let unknown = op(20, 20, Question::Change(2), Outcome::Unknown);
    let seen_late = [
        registered(0, 10, 1),
        unknown.clone(),
        read(30, 40, Some(1)),
        read(50, 60, Some(2)),
    ];
    let never_seen = [registered(0, 10, 1), unknown.clone(), read(30, 40, Some(1))];
    let seen_twice = [
        registered(0, 10, 1),
        unknown.clone(),
        read(30, 40, Some(2)),
        changed(50, 60, 3),
        read(70, 80, Some(2)),
    ];
    let before_it_was_asked = [registered(0, 5, 1), read(10, 15, Some(2)), unknown];
    assert!(holds(&seen_late) && holds(&never_seen));
    assert!(!holds(&seen_twice));
    assert!(!holds(&before_it_was_asked));
}

#[test]
fn what_was_refused_did_not_happen() {
    let refused = op(20, 30, Question::Change(2), Outcome::Refused);
    assert!(holds(&[
        registered(0, 10, 1),
        refused.clone(),
        read(40, 50, Some(1))
    ]));
    assert!(!holds(&[registered(0, 10, 1), refused, read(40, 50, Some(2))]));
}

#[test]
fn keys_do_not_mix_and_the_bad_one_is_named() {
    let mut other = read(20, 30, Some(1));
    other.key = "other".to_owned();
    let rejected = linear::check::<Entry>(&[registered(0, 10, 1), other]).unwrap_err();
    assert!(
        rejected.to_string().starts_with("other is not linearizable"),
        "{rejected}"
    );
}

#[test]
fn many_unknown_outcomes_do_not_make_the_search_hopeless() {
    let mut history = vec![registered(0, 1, 0)];
    for number in 1..=200 {
        let from = number * 10;
        if number % 10 == 0 {
            history.push(op(from, from, Question::Change(number), Outcome::Unknown));
        } else {
            history.push(changed(from, from + 5, number));
        }
    }
    history.push(read(5_000, 5_010, Some(199)));
    assert!(holds(&history));
}

#[test]
fn the_recorder_keeps_the_outcome_or_its_absence() {
    let recorder = Recorder::<Question, Answer>::default();
    let lost = recorder.invoke(1, "a", Question::Remove);
    drop(lost);
    let answered = recorder.invoke(2, "b", Question::Read);
    answered.end(Outcome::Done(Answer::Value(None)));
    let operations = recorder.operations();
    assert_eq!(operations[0].outcome, Outcome::Unknown);
    assert_eq!(operations[1].outcome, Outcome::Done(Answer::Value(None)));
    assert!(operations[1].ended_us >= operations[1].invoked_us);
}

#[test]
fn a_view_that_goes_back_is_found_and_other_views_do_not_matter() {
    let seen = |by: &str, version| Seen {
        by: by.to_owned(),
        key: "k".to_owned(),
        version,
    };
    assert_eq!(
        order::never_goes_back(&[seen("a", 2), seen("b", 1), seen("a", 2)]),
        Ok(())
    );
    let error = order::never_goes_back(&[seen("a", 2), seen("b", 5), seen("a", 1)]).unwrap_err();
    assert!(error.contains("after version 2"), "{error}");
}

#[test]
fn what_is_lost_and_what_came_from_nowhere_is_named() {
    let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let (attempted, acknowledged) = (set(&["a", "b", "c"]), set(&["a", "b"]));
    assert_eq!(
        order::nothing_lost(&attempted, &acknowledged, &set(&["a", "b", "c"])),
        Ok(())
    );
    let lost = order::nothing_lost(&attempted, &acknowledged, &set(&["a"])).unwrap_err();
    assert!(lost.contains("\"b\""), "{lost}");
    let invented = order::nothing_lost(&attempted, &acknowledged, &set(&["a", "b", "x"])).unwrap_err();
    assert!(invented.contains("\"x\""), "{invented}");
}

#[test]
fn two_lives_at_once_are_found() {
    let life = |process, from_us, until_us| Life {
        process,
        from_us,
        until_us,
    };
    assert_eq!(
        order::one_at_a_time(&[life(2, 20, 30), life(1, 0, 20), life(3, 31, 40)]),
        Ok(())
    );
    assert!(order::one_at_a_time(&[life(1, 0, 100), life(2, 20, 30)]).is_err());
    assert!(order::one_at_a_time(&[life(1, 0, 100), life(2, 100, 130), life(3, 110, 120)]).is_err());
}

/// A history that really happened, every 10 µs one operation on a real entry, and the entry's state at its end.
fn truly(questions: &[(Question, u64, u64, Fate)]) -> (Vec<Op>, Option<u64>) {
    let mut state = Entry::initial();
    let mut history = Vec::new();
    for (number, &(question, early, late, fate)) in (0..).zip(questions) {
        let question = match question {
            Question::Register(_) => Question::Register(number),
            Question::Change(_) => Question::Change(number),
            other => other,
        };
        let moment_us = 1_000 + number * 10;
        let (from, to) = (moment_us - early, moment_us + late);
        let answer = answer_of(state, question);
        if fate != Fate::Lost {
            state = Entry::step(&state, &question, None).expect("any question may be asked");
        }
        history.push(match fate {
            Fate::Answered => done(from, to, question, answer),
            Fate::Happened | Fate::Lost => op(from, from, question, Outcome::Unknown),
        });
    }
    (history, state)
}

fn answer_of(state: Option<u64>, question: Question) -> Answer {
    let all = [
        Answer::Done,
        Answer::Exists,
        Answer::Missing,
        Answer::Value(state),
    ];
    let said = all
        .into_iter()
        .find(|answer| Entry::step(&state, &question, Some(answer)).is_some());
    said.expect("one answer is right")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    /// Happened, and nobody heard of it.
    Happened,
    /// Never happened, and nobody knows.
    Lost,
}

fn a_question() -> impl Strategy<Value = Question> {
    prop_oneof![
        2 => Just(Question::Register(0)),
        4 => Just(Question::Change(0)),
        1 => Just(Question::Remove),
        4 => Just(Question::Read),
    ]
}

fn a_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![8 => Just(Fate::Answered), 1 => Just(Fate::Happened), 1 => Just(Fate::Lost)]
}

fn questions(spread_us: u64) -> impl Strategy<Value = Vec<(Question, u64, u64, Fate)>> {
    prop::collection::vec((a_question(), 0..=spread_us, 0..=spread_us, a_fate()), 1..30)
}

/// Every order of every choice of the unknown: slow, and plainly right.
fn plainly_holds(history: &[Op], state: Option<u64>, placed: &mut Vec<usize>) -> bool {
    let remaining = || (0..history.len()).filter(|index| !placed.contains(index));
    let is_known = |index: &usize| matches!(history[*index].outcome, Outcome::Done(_));
    if !remaining().any(|index| is_known(&index)) {
        return true;
    }
    let first_answer_us = remaining()
        .filter(is_known)
        .map(|index| history[index].ended_us)
        .min();
    let candidates: Vec<usize> = remaining()
        .filter(|index| first_answer_us.is_none_or(|first| history[*index].invoked_us <= first))
        .collect();
    candidates.into_iter().any(|index| {
        let operation = &history[index];
        let answer = match &operation.outcome {
            Outcome::Done(answer) => Some(answer),
            _ => None,
        };
        let Some(next) = Entry::step(&state, &operation.question, answer) else {
            return false;
        };
        placed.push(index);
        let holds = plainly_holds(history, next, placed);
        placed.pop();
        holds
    })
}

fn any_operation() -> impl Strategy<Value = Op> {
    let question = prop_oneof![
        (0..3u64).prop_map(Question::Register),
        (0..3u64).prop_map(Question::Change),
        Just(Question::Remove),
        Just(Question::Read),
    ];
    let answer = (0..4usize, prop::option::of(0..3u64));
    (question, answer, 0..40u64, 0..20u64, prop::bool::weighted(0.15)).prop_map(
        |(question, (said, value), from, length, is_unknown)| {
            let answer = match question {
                Question::Read => Answer::Value(value),
                Question::Register(_) => [Answer::Done, Answer::Exists][said % 2],
                _ => [Answer::Done, Answer::Missing][said % 2],
            };
            let outcome = if is_unknown {
                Outcome::Unknown
            } else {
                Outcome::Done(answer)
            };
            op(from, from + length, question, outcome)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_truly_happened_is_accepted_in_whatever_order_it_was_recorded(
        questions in questions(35),
        order in any::<prop::sample::Index>(),
    ) {
        let (mut history, _) = truly(&questions);
        let middle = order.index(history.len());
        history.rotate_left(middle);
        prop_assert!(holds(&history), "{}", linear::check::<Entry>(&history).unwrap_err());
    }

    #[test]
    fn a_read_of_what_nobody_wrote_is_rejected(questions in questions(35)) {
        let (mut history, _) = truly(&questions);
        let last = history.iter().map(|operation| operation.ended_us).max().unwrap_or_default();
        history.push(read(last + 1, last + 2, Some(1_000_000)));
        prop_assert!(!holds(&history));
    }

    #[test]
    fn a_lost_acknowledged_change_is_rejected(questions in questions(35)) {
        let (mut history, state) = truly(&questions);
        let last = 10_000; // after everything above has ended
        history.push(done(last, last + 1, Question::Remove, answer_of(state, Question::Remove)));
        history.push(registered(last + 10, last + 11, 5_000));
        history.push(changed(last + 20, last + 21, 5_001));
        prop_assert!(holds(&history));
        history.push(read(last + 30, last + 31, Some(5_000)));
        prop_assert!(!holds(&history));
    }

    #[test]
    fn the_search_agrees_with_trying_every_order(history in prop::collection::vec(any_operation(), 1..7)) {
        prop_assert_eq!(holds(&history), plainly_holds(&history, Entry::initial(), &mut Vec::new()));
    }
}
