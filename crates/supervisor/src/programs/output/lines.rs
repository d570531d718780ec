//! Bytes made into lines, and the last of them kept: bounded, whatever is written.
//!
//! ```text
//!   bytes ─▶ Splitter ─┬─ a whole line ──────────────┬─▶ Kept: the oldest go when there is no room
//!                      └─ a piece of a very long one ┘
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::Timestamp;

/// The longest line in bytes; a longer one is cut in pieces.
pub(super) const LINE_BYTES: usize = 16 * 1024;
/// Bytes that are kept of the lines of one copy, with what it takes to keep a line.
const KEPT_BYTES: usize = 64 * 1024;
/// What it takes to keep a line, beside its text.
pub(super) const LINE_COST: usize = 64;

/// The line that has not ended yet.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes in what was read, and says the lines in it.
    pub(super) fn take(&mut self, bytes: &[u8], mut say: impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (mut text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            while self.partial.len() + text.len() > LINE_BYTES {
                let (fits, rest) = text.split_at(LINE_BYTES - self.partial.len());
                self.partial.extend_from_slice(fits);
                text = rest;
                self.end(&mut say);
            }
            self.partial.extend_from_slice(text);
            if ends {
                self.end(&mut say);
            }
        }
    }

    /// Nothing follows: the line that has not ended is one all the same.
    pub(super) fn finish(&mut self, mut say: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.end(&mut say);
        }
        self.partial = Vec::new();
    }

    /// The line that has not ended.
    pub(super) fn unended(&self) -> &[u8] {
        &self.partial
    }

    fn end(&mut self, say: &mut impl FnMut(&str)) {
        let text = self.partial.strip_suffix(b"\r").unwrap_or(&self.partial);
        say(&String::from_utf8_lossy(text));
        self.partial.clear();
        // A long one is rare; its room is not kept.
        self.partial.shrink_to(LINE_COST);
    }
}

/// A line that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Counted over all programs, so that lines of several copies can be put in order.
    pub(super) number: u64,
    pub(super) at: Timestamp,
    pub(super) text: Arc<str>,
    /// Lines before it that nobody was told of.
    pub(super) left_out: u64,
}

/// The last lines of one copy.
#[derive(Debug, Default)]
pub(super) struct Kept {
    lines: VecDeque<Line>,
    bytes: usize,
}

impl Kept {
    /// Keeps a line, and lets go of the oldest ones if there is no room.
    pub(super) fn push(&mut self, line: Line) {
        self.bytes += line.text.len() + LINE_COST;
        self.lines.push_back(line);
        while self.bytes > KEPT_BYTES {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.text.len() + LINE_COST;
        }
    }

    /// All that are kept, oldest first.
    pub(super) fn lines(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(texts: &[&[u8]]) -> Vec<String> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        texts.iter().for_each(|text| splitter.take(text, |line| lines.push(line.to_owned())));
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        assert_eq!(split(&[b"on", b"e\ntw", b"o\r\n\nthr", b"ee"]), ["one", "two", "", "three"]);
        assert_eq!(split(&[b"one\n"]), ["one"]);
        assert_eq!(split(&[b"not \xff utf-8\n"]), ["not \u{fffd} utf-8"]);
        assert_eq!(split(&[]), [""; 0]);
    }

    #[test]
    fn a_line_that_never_ends_is_cut_in_pieces() {
        let lines = split(&[&[b'x'; 10_000], &[b'y'; 10_000], b"\nend\n"]);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [LINE_BYTES, 20_000 - LINE_BYTES, 3]);
        let exact = split(&[&[b'x'; LINE_BYTES], b"\n"]);
        assert_eq!(exact.iter().map(String::len).collect::<Vec<_>>(), [LINE_BYTES]);
        let huge = split(&[&vec![b'z'; 10 * LINE_BYTES + 1]]);
        assert_eq!(huge.len(), 11);
    }

    #[test]
    fn of_many_lines_the_last_are_kept() {
        let mut kept = Kept::default();
        for number in 0..100_000 {
            kept.push(Line {
                number,
                at: Timestamp::UNIX_EPOCH,
                text: number.to_string().into(),
                left_out: 0,
            });
        }
        assert!(kept.bytes <= KEPT_BYTES);
        let numbers: Vec<u64> = kept.lines().map(|line| line.number).collect();
        assert_eq!(*numbers.last().unwrap(), 99_999);
        assert!(numbers.len() > 500, "{}", numbers.len());
        assert_eq!(*numbers.first().unwrap(), 100_000 - u64::try_from(numbers.len()).unwrap());
    }
}
