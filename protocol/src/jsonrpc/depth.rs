//! The bound on nesting.
//!
//! Nothing on the forwarding path recurses over a message (raw values are scanned with a heap stack), but those who
//! read it after us may. The bound is the one of serde_json for values, so whatever passes can also be read as one.

/// The deepest nesting of arrays and objects that is accepted.
pub const DEPTH_MAX: usize = 128;

/// Whether arrays and objects nest deeper than [`DEPTH_MAX`]. The text need not be valid JSON.
pub(super) fn is_too_deep(text: &[u8]) -> bool {
    // Counting brackets is several times faster than following them, and most messages have few.
    let opening = text.iter().filter(|&&byte| byte == b'{' || byte == b'[').count();
    opening > DEPTH_MAX && deepest(text) > DEPTH_MAX
}

fn deepest(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0_usize);
    let (mut in_string, mut escaped) = (false, false);
    for &byte in text {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
