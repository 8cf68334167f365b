//! Texts that are too long for one message between nodes: cut into pieces that are sent before the answer.

use std::ops::ControlFlow;

use serde::Serialize;

use super::dispatcher::Parts;

/// The longest text within one message between nodes, in bytes. Longer ones go in pieces of this size.
pub const PIECE_BYTES_MAX: usize = 128 * 1024;

/// Where a text is cut: the end of its first piece.
pub fn cut(text: &str) -> usize {
    text.floor_char_boundary(PIECE_BYTES_MAX)
}

/// Sends all of a long text but its end ahead, each piece as the part that `part` makes of it; gives back the end, which
/// fits into the answer. Gives back nothing of it when nobody listens any more.
pub async fn send_ahead<P: Serialize + Sync>(
    text: String,
    parts: &Parts,
    part: impl Fn(String) -> P,
) -> String {
    let mut rest = text.as_str();
    while cut(rest) < rest.len() {
        let (piece, behind) = rest.split_at(cut(rest));
        if parts.send(&part(piece.to_owned())).await.is_err() {
            return String::new();
        }
        rest = behind;
    }
    if rest.len() == text.len() {
        text
    } else {
        rest.to_owned()
    }
}

/// Puts a text together again; breaks when it becomes longer than `bytes_max`.
pub fn append(text: &mut String, piece: &str, bytes_max: usize) -> ControlFlow<()> {
    if text.len() + piece.len() > bytes_max {
        return ControlFlow::Break(());
    }
    text.push_str(piece);
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use troupe_protocol::wire;

    #[tokio::test]
    async fn a_long_text_arrives_whole_in_pieces_that_fit_into_messages() {
        let text = "ä1€".repeat(100_000);
        let (parts, mut received) = Parts::channel();
        let (end, sent) = (
            send_ahead(text.clone(), &parts, |piece| piece).await,
            received.len(),
        );
        let mut whole = String::new();
        for _ in 0..sent {
            let bytes = received.recv().await.unwrap();
            assert!(bytes.len() < wire::MESSAGE_BYTES_MAX);
            let piece: String = wire::decode(&bytes).unwrap();
            assert!(append(&mut whole, &piece, text.len()).is_continue());
        }
        assert!(append(&mut whole, &end, text.len()).is_continue());
        assert_eq!(whole, text);
        assert!(append(&mut whole, "x", text.len()).is_break());
    }
}
