//! Lines of a process, each a message. One that is too long is passed over, but for its two ends: by them it is known whose
//! answer it was.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio_util::codec::Decoder;

/// Bytes kept of either end of a line that is too long.
const END_BYTES: usize = 256;
/// What is made room for at first, and again after a line that was too long.
const BUFFER_BYTES: usize = 16 * 1024;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// All of it, without its end.
    Whole(Bytes),
    /// It is longer than it may be. The id of the request that it answers, where the ends tell it.
    TooLong { id: Option<u64> },
}

/// Finds the lines.
pub(super) struct Lines {
    bytes_max: usize,
    /// No line ends before this in what is buffered.
    searched: usize,
    passing_over: Option<Ends>,
}

/// The two ends of a line.
struct Ends {
    begin: Vec<u8>,
    end: Vec<u8>,
}

impl Lines {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            searched: 0,
            passing_over: None,
        }
    }
}

impl Decoder for Lines {
    type Item = Line;
    type Error = io::Error;

    fn decode(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Line>> {
        let searched = self.searched.min(buffer.len());
        let end = buffer[searched..].iter().position(|byte| *byte == b'\n');
        let end = end.map(|end| searched + end);
        let bytes = end.unwrap_or(buffer.len());
        if self.passing_over.is_none() && bytes > self.bytes_max {
            self.passing_over = Some(Ends::of(&buffer[..bytes]));
        } else if let Some(ends) = &mut self.passing_over {
            ends.go_on(&buffer[..bytes]);
        }
        self.searched = 0;
        match (end, self.passing_over.is_some()) {
            (Some(end), false) => {
                let line = buffer.split_to(end).freeze();
                buffer.advance(1);
                Ok(Some(Line::Whole(line)))
            }
            (Some(end), true) => {
                buffer.advance(end + 1);
                Ok(self.passing_over.take().map(Ends::into_line))
            }
            (None, false) => {
                self.searched = buffer.len();
                Ok(None)
            }
            (None, true) => {
                *buffer = BytesMut::with_capacity(BUFFER_BYTES);
                Ok(None)
            }
        }
    }

    fn decode_eof(&mut self, buffer: &mut BytesMut) -> io::Result<Option<Line>> {
        if let Some(line) = self.decode(buffer)? {
            return Ok(Some(line));
        }
        self.searched = 0;
        if let Some(ends) = self.passing_over.take() {
            return Ok(Some(ends.into_line()));
        }
        // What was not ended may be whole all the same.
        let rest = (!buffer.is_empty()).then(|| buffer.split().freeze());
        Ok(rest.map(Line::Whole))
    }
}

impl Ends {
    fn of(line: &[u8]) -> Self {
        Self {
            begin: line[..line.len().min(END_BYTES)].to_vec(),
            end: line[line.len().saturating_sub(END_BYTES)..].to_vec(),
        }
    }

    fn go_on(&mut self, more: &[u8]) {
        let more = &more[more.len().saturating_sub(END_BYTES)..];
        self.end.extend_from_slice(more);
        let surplus = self.end.len().saturating_sub(END_BYTES);
        self.end.drain(..surplus);
    }

    fn into_line(self) -> Line {
        let id = id_at_begin(&self.begin).or_else(|| id_at_end(&self.end));
        Line::TooLong { id }
    }
}

/// The id where it stands before what makes an answer long.
fn id_at_begin(begin: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(begin);
    let long = ["\"result\"", "\"error\"", "\"params\"", "\"method\""];
    let until = long.iter().filter_map(|key| text.find(key)).min();
    let (_, after) = text[..until.unwrap_or(text.len())].split_once("\"id\"")?;
    let digits = after.trim_start().strip_prefix(':')?.trim_start();
    // A number that is cut off is another number.
    let (id, rest) = digits.split_at(digits.find(|c: char| !c.is_ascii_digit())?);
    let is_over = rest.trim_start().starts_with([',', '}']);
    id.parse().ok().filter(|_| is_over)
}

/// The id where it is the last member: after a member of a member another brace would stand.
fn id_at_end(end: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(end);
    let members = text.trim_end().strip_suffix('}')?.trim_end();
    let before = members.trim_end_matches(|c: char| c.is_ascii_digit());
    let is_id = before
        .trim_end()
        .strip_suffix(':')?
        .trim_end()
        .ends_with("\"id\"");
    members[before.len()..].parse().ok().filter(|_| is_id)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is found when the text comes in pieces of this size.
    fn found(text: &str, bytes_max: usize, piece: usize) -> Vec<Line> {
        let (mut lines, mut buffer) = (Lines::new(bytes_max), BytesMut::new());
        let mut found = Vec::new();
        for piece in text.as_bytes().chunks(piece) {
            buffer.extend_from_slice(piece);
            while let Some(line) = lines.decode(&mut buffer).unwrap() {
                found.push(line);
            }
        }
        while let Some(line) = lines.decode_eof(&mut buffer).unwrap() {
            found.push(line);
        }
        found
    }

    fn whole(text: &'static str) -> Line {
        Line::Whole(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn lines_are_the_same_however_they_come() {
        let long = format!(r#"{{"jsonrpc":"2.0","id":17,"result":"{}"}}"#, "x".repeat(2_000));
        let text = format!("one\n\n{long}\ntwo\nthree");
        for piece in [1, 2, 7, 300, 10_000] {
            let expected = [
                whole("one"),
                whole(""),
                Line::TooLong { id: Some(17) },
                whole("two"),
                whole("three"),
            ];
            assert_eq!(found(&text, 1_000, piece), expected, "in pieces of {piece}");
        }
        assert_eq!(found("12345\n123456\n12345", 5, 3).len(), 3);
        assert_eq!(found("12345\n123456\n12345", 5, 3)[1], Line::TooLong { id: None });
        assert_eq!(found("1234567", 5, 2), [Line::TooLong { id: None }]);
    }

    #[test]
    fn the_id_is_read_at_either_end_and_never_guessed() {
        let x = "x".repeat(2_000);
        let id = |text: String| match found(&format!("{text}\n"), 1_000, 333).pop() {
            Some(Line::TooLong { id }) => id,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            id(format!(r#"{{"result":{{"x":"{x}"}},"jsonrpc":"2.0","id": 9 }}"#)),
            Some(9)
        );
        assert_eq!(id(format!(r#"{{ "id" : 8 , "result":"{x}"}}"#)), Some(8));
        assert_eq!(id(format!(r#"{{"result":{{"x":"{x}","id":9}}}}"#)), None);
        assert_eq!(id(format!(r#"{{"result":{{"id":9,"x":"{x}"}}}}"#)), None);
        assert_eq!(id(format!(r#"{{"id":"nine","result":"{x}"}}"#)), None);
        assert_eq!(id(format!(r#"{{"method":"m","id":9,"params":"{x}"}}"#)), None);
    }
}
