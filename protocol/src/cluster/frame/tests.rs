//! Frames and hellos: what is put is read again, and foreign bytes do no harm.

#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

fn trace() -> TraceContext {
    TraceContext {
        correlation_id: CorrelationId(7 << 100),
        span: SpanId(9),
    }
}

fn every_kind<'a>(number: u64, payload: &'a [u8], detail: &'a str) -> Vec<Frame<'a>> {
    let ask = |wants_parts, trace| Frame::Ask {
        number,
        wants_parts,
        service: 3,
        deadline_ms: 1_500,
        trace,
        payload,
    };
    let tell = |trace| Frame::Tell {
        service: 2,
        trace,
        payload,
    };
    vec![
        ask(false, None),
        ask(true, Some(trace())),
        Frame::Answer { number, payload },
        Frame::Refusal {
            number,
            code: 8004,
            detail,
        },
        Frame::Part { number, payload },
        tell(None),
        tell(Some(trace())),
        Frame::Cancel { number },
        Frame::Credit { number, bytes: 5 },
        Frame::Ping { sent_us: number },
        Frame::Pong {
            sent_us: number,
            clock_us: -4,
        },
        Frame::Begin {
            total_bytes: 70_000,
            piece: payload,
        },
        Frame::More { piece: payload },
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read(number: u64, payload: Vec<u8>, detail: String) {
        let frames = every_kind(number, &payload, &detail);
        let head = BatchHead { key: number, small_bytes_taken: 1, bulk_bytes_taken: u32::MAX };
        let mut batch = Vec::new();
        head.put(&mut batch);
        prop_assert!(batch.len() <= BATCH_HEAD_BYTES_MAX);
        for frame in &frames {
            let before = batch.len();
            frame.put(&mut batch);
            prop_assert_eq!(batch.len() - before, frame.bytes());
            prop_assert!(frame.bytes() <= FRAME_OVERHEAD_BYTES_MAX + payload.len().max(detail.len()));
        }
        let (read_head, read) = BatchHead::split(&batch).unwrap();
        prop_assert_eq!(read_head, head);
        prop_assert_eq!(read.collect::<Result<Vec<_>, _>>().unwrap(), frames);
    }

    #[test]
    fn foreign_bytes_never_panic(bytes: Vec<u8>) {
        if let Ok((_, frames)) = BatchHead::split(&bytes) {
            let _ = frames.collect::<Vec<_>>();
        }
    }
}

#[test]
fn a_cut_batch_is_refused() {
    let mut batch = Vec::new();
    Frame::Cancel { number: 1 }.put(&mut batch);
    assert_eq!(Frame::split(&batch[..batch.len() - 1]), Err(FrameError::Cut));
}

#[test]
fn a_head_goes_right_before_the_frames() {
    let head = BatchHead {
        key: 7,
        small_bytes_taken: 300,
        bulk_bytes_taken: 0,
    };
    let mut batch = vec![0; BATCH_HEAD_BYTES_MAX];
    Frame::Cancel { number: 1 }.put(&mut batch);
    let begin = head.put_before(&mut batch);
    let (read, frames) = BatchHead::split(&batch[begin..]).unwrap();
    assert_eq!((read, frames.count()), (head, 1));
}

#[test]
fn a_number_that_is_too_large_is_refused() {
    let too_long = [&[CANCEL, 11][..], &[0xff; 10], &[1]].concat();
    assert_eq!(Frame::split(&too_long), Err(FrameError::Number));
    let mut too_wide = vec![BEGIN, 5];
    varint::put(u64::from(u32::MAX) + 1, &mut too_wide);
    assert_eq!(Frame::split(&too_wide), Err(FrameError::Number));
}

#[test]
fn what_idle_nodes_say_is_short() {
    let ask = Frame::Ask {
        number: 5_000,
        wants_parts: false,
        service: 1,
        deadline_ms: 900,
        trace: None,
        payload: &[0; 4],
    };
    assert_eq!(ask.bytes(), 1 + 1 + 2 + 1 + 2 + 4);
}

#[test]
fn two_ranges_agree_on_the_newest_version_both_have() {
    assert_eq!(common_version((1, 3), (2, 5)), Some(3));
    assert_eq!(common_version((1, 1), (1, 2)), Some(1));
    assert_eq!(common_version((1, 1), (2, 3)), None);
    assert_eq!(common_version((4, 5), (2, 3)), None);
}
