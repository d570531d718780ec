//! What a new worker writes to standard error, as long as it does not serve: passed on, and its last lines kept for the
//! answer if it fails.
//!
//! ```text
//!   candidate ── stderr ─▶ pipe ─▶ task ─┬─▶ this process's stderr
//!                                        └─▶ the last lines ─▶ the operation's answer
//!   serves ── dup2 of the real stderr ─▶ the pipe has no writer any more: the task ends
//! ```
//!
//! So a candidate that serves does not depend on this process, which may die before it does.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::task::JoinHandle;

/// Lines that are kept.
const LINES: usize = 20;
/// Bytes that are kept, all lines together.
const BYTES: usize = 8 * 1024;

/// The last lines of a process.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastLines(Arc<Mutex<Tail>>);

impl LastLines {
    /// The lines so far, the oldest first; one that has not ended too.
    pub(crate) fn get(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).lines()
    }

    /// Takes in what was read.
    pub(crate) fn take(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(bytes);
    }
}

/// Makes a pipe for a process's standard error. The task ends when nobody can write into it any more.
pub(crate) fn tee() -> io::Result<(OwnedFd, LastLines, JoinHandle<()>)> {
    let (reader, writer) = io::pipe()?;
    let mut reader = Receiver::from_owned_fd(reader.into())?;
    let kept = LastLines::default();
    let lines = kept.clone();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer).await {
            let bytes = buffer.get(..count).unwrap_or_default();
            // If this process's stderr is closed, the lines are kept all the same.
            let _ = io::stderr().lock().write_all(bytes);
            lines.take(bytes);
        }
    });
    Ok((writer.into(), kept, task))
}

/// The end of a text, in lines.
#[derive(Debug, Default)]
struct Tail {
    ended: VecDeque<Vec<u8>>,
    bytes: usize,
    /// The line that has not ended.
    last: Vec<u8>,
}

impl Tail {
    fn take(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            // Of a line that is too long its beginning says most.
            let room = BYTES.saturating_sub(self.last.len());
            self.last.extend_from_slice(text.get(..room).unwrap_or(text));
            if ends {
                let line = std::mem::take(&mut self.last);
                self.bytes += line.len();
                self.ended.push_back(line);
            }
            self.forget();
        }
    }

    /// Lets go of the oldest lines.
    fn forget(&mut self) {
        while self.ended.len() > LINES || self.bytes + self.last.len() > BYTES {
            let Some(oldest) = self.ended.pop_front() else { return };
            self.bytes -= oldest.len();
        }
    }

    fn lines(&self) -> Vec<String> {
        let unended = Some(&self.last).filter(|last| !last.is_empty());
        let all: Vec<&Vec<u8>> = self.ended.iter().chain(unended).collect();
        let last = all.get(all.len().saturating_sub(LINES)..).unwrap_or_default();
        last.iter().map(|line| String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(texts: &[&str]) -> Vec<String> {
        let mut tail = Tail::default();
        texts.iter().for_each(|text| tail.take(text.as_bytes()));
        tail.lines()
    }

    #[test]
    fn lines_are_whole_however_they_arrive() {
        assert_eq!(tail(&["on", "e\ntw", "o\r\n\nthr", "ee"]), ["one", "two", "", "three"]);
        assert_eq!(tail(&[]), [""; 0]);
    }

    #[test]
    fn of_many_lines_the_last_are_kept() {
        let text: String = (1..=50).map(|number| format!("{number}\n")).collect();
        let lines = tail(&[&text, "51"]);
        assert_eq!(lines.len(), LINES);
        assert_eq!((lines[0].as_str(), lines[LINES - 1].as_str()), ("32", "51"));
    }

    #[test]
    fn neither_long_lines_nor_lines_without_an_end_take_more_room_than_there_is() {
        let mut tail = Tail::default();
        for _ in 0..100 {
            tail.take(&[b'x'; 3000]);
        }
        assert_eq!(tail.last.len(), BYTES);
        tail.take(b"\nthe end\n");
        assert!(tail.bytes <= BYTES);
        assert_eq!(tail.lines().last().unwrap(), "the end");
        for _ in 0..10 {
            tail.take(&[b'y'; 3000]);
            tail.take(b"\n");
        }
        assert!(tail.bytes <= BYTES && tail.lines().len() <= 2);
    }

    #[tokio::test]
    async fn the_task_ends_when_nobody_can_write_any_more() {
        let (writer, lines, task) = tee().unwrap();
        let mut file = std::fs::File::from(writer);
        file.write_all(b"a line for the last lines\n").unwrap();
        drop(file);
        task.await.unwrap();
        assert_eq!(lines.get(), ["a line for the last lines"]);
    }
}
