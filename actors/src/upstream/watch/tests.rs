#![allow(clippy::unwrap_used)]
use super::*;

fn set(uris: &[&str]) -> BTreeSet<String> {
    uris.iter().map(|uri| (*uri).to_owned()).collect()
}

#[test]
fn a_resource_is_wanted_as_long_as_anybody_wants_it() {
    let mut wants = Wants::default();
    assert!(wants.add("a://1") && wants.add("a://1") && wants.add("a://2"));
    assert!(!wants.release("a://1"), "somebody else wants it");
    assert!(wants.release("a://1"));
    assert!(!wants.release("a://1"), "nobody wants it");
    assert_eq!(wants.of_all(), set(&["a://2"]));

    let node = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse::<NodeId>().unwrap();
    wants.set_of_node(node, set(&["a://2", "a://3"]));
    assert_eq!(wants.of_all(), set(&["a://2", "a://3"]));
    assert_eq!(wants.of_this_node(), set(&["a://2"]));
    wants.set_of_node(node, BTreeSet::new());
    assert_eq!(wants.of_all(), set(&["a://2"]));
    assert!(wants.of_nodes.is_empty());
}

#[test]
fn what_one_node_may_want_is_bounded() {
    let mut wants = Wants::default();
    for number in 0..RESOURCES_MAX {
        assert!(wants.add(&number.to_string()));
    }
    assert!(!wants.add("one more"));
    assert!(wants.add("7"), "it is wanted already");
}

/// Does not answer for some, and refuses one.
struct Hanging;

impl Subscribes for Hanging {
    fn ask<'a>(
        &'a self,
        _: &'static str,
        uri: &'a str,
        deadline: Deadline,
    ) -> BoxFuture<'a, Result<RawReply, UpstreamError>> {
        Box::pin(async move {
            if uri.starts_with("hang") {
                tokio::time::sleep_until(deadline.instant()).await;
                return Err(UpstreamError::Stopped("s".parse().unwrap()));
            }
            let reply = RawValue::from_string("{}".to_owned()).unwrap();
            Ok(if uri == "no" {
                RawReply::Error(reply)
            } else {
                RawReply::Result(reply)
            })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_resource_for_which_a_server_does_not_answer_holds_up_no_other() {
    let mut made = Made::default();
    let wanted = set(&["a", "hang/1", "hang/2", "no", "z"]);
    let deadline = Deadline::within(MAKE_TIME_MAX);
    let outcome = subscribe(&Hanging, &mut made, &wanted, None, deadline)
        .await
        .unwrap();
    assert!(!outcome.is_all);
    assert_eq!(made.uris, set(&["a", "no", "z"]));
    assert!(outcome.refused.contains_key("no"));
    // Whoever wants another one gets it at once.
    let began = Instant::now();
    let wanted = set(&["a", "b", "hang/1", "hang/2", "no", "z"]);
    let outcome = subscribe(&Hanging, &mut made, &wanted, Some("b"), deadline)
        .await
        .unwrap();
    assert!(began.elapsed() < ONE_TIME_MAX && made.uris.contains("b") && !outcome.is_all);
    let hangs = subscribe(&Hanging, &mut made, &wanted, Some("hang/1"), deadline).await;
    assert!(hangs.is_err(), "who wants it is told");
    // What is left is tried again, more and more seldom.
    let lane = lane();
    let pauses: Vec<u64> = (0..8)
        .filter_map(|_| Some(lane.tried(false)?.as_secs()))
        .collect();
    assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 120, 120]);
    assert_eq!(
        (lane.tried(true), lane.tried(false)),
        (None, Some(AGAIN_AFTER_MIN))
    );
}

fn lane() -> Arc<OfLane> {
    Watches::default().of(&"s".parse().unwrap(), Profile::NONE)
}

#[test]
fn a_modern_server_that_acknowledges_too_late_is_asked_again() {
    let mut made = Made::default();
    let outcome = made.listened(set(&["a", "b"]), Some(set(&["a"])));
    assert!(outcome.is_all && outcome.refused.contains_key("b"));
    assert_eq!(made.difference(&set(&["a", "b"])), (Vec::new(), Vec::new()));
    let outcome = made.listened(set(&["a", "b"]), None);
    assert!(!outcome.is_all && outcome.refused.len() == 2);
    let (to_make, _) = made.difference(&set(&["a", "b"]));
    assert_eq!(to_make, ["a", "b"]);
    assert!(made.refused.is_empty(), "nothing was refused");
}

#[test]
fn only_the_difference_is_made_and_everything_over_another_connection() {
    let mut made = Made::default();
    made.begin_at(Where::Connection(1, 0));
    made.uris = set(&["a", "b"]);
    made.begin_at(Where::Connection(1, 0));
    assert_eq!(
        made.difference(&set(&["b", "c"])),
        (vec!["c".to_owned()], vec!["a".to_owned()])
    );
    made.begin_at(Where::Connection(1, 1));
    assert_eq!(
        made.difference(&set(&["b"])),
        (vec!["b".to_owned()], Vec::new()),
        "a new session of the same connection knows of nothing"
    );
}
