//! Counting what a drain waits for.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::drain::Drain;
use crate::types::Losses;

/// The open connections of one run, by kind.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tracker(Arc<Mutex<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    open: BTreeMap<&'static str, u64>,
    total: u64,
    /// Told of every change once the run drains.
    drain: Option<Drain>,
}

impl Tracker {
    /// Counts one more of `kind` until the guard is dropped.
    pub(crate) fn track(&self, kind: &'static str) -> Tracked {
        self.change(kind, |open| open.saturating_add(1));
        Tracked { kind, tracker: self.clone() }
    }

    /// Tells `drain` what is left, now and whenever it changes.
    pub(crate) fn report_to(&self, drain: &Drain) {
        let mut counts = self.lock();
        drain.progress(counts.total);
        counts.drain = Some(drain.clone());
    }

    /// How many are open.
    pub(crate) fn total(&self) -> u64 {
        self.lock().total
    }

    /// How many are open, by kind.
    pub(crate) fn by_kind(&self) -> Vec<(&'static str, u64)> {
        self.lock().open.iter().map(|(kind, open)| (*kind, *open)).collect()
    }

    /// What is lost if all that is open is cut now.
    pub(crate) fn losses(&self) -> Losses {
        let mut losses = Losses::default();
        for (kind, open) in self.by_kind() {
            losses.add(kind, open);
        }
        losses
    }

    fn change(&self, kind: &'static str, to: impl Fn(u64) -> u64) {
        let mut counts = self.lock();
        let open = counts.open.entry(kind).or_default();
        *open = to(*open);
        counts.total = to(counts.total);
        if let Some(drain) = &counts.drain {
            drain.progress(counts.total);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as one open connection until it is dropped: what a drain waits for, and what is counted as lost if
/// the drain's deadline passes first.
#[derive(Debug)]
#[must_use = "a connection counts as open for as long as this is kept"]
pub struct Tracked {
    kind: &'static str,
    tracker: Tracker,
}

impl Tracked {
    /// A stream that counts as open until it is dropped.
    pub fn wrap<S>(self, stream: S) -> TrackedStream<S> {
        TrackedStream { stream, _tracked: self }
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.tracker.change(self.kind, |open| open.saturating_sub(1));
    }
}

/// A stream that counts as an open connection; see [`Tracked::wrap`].
#[derive(Debug)]
pub struct TrackedStream<S> {
    stream: S,
    _tracked: Tracked,
}

impl<S> TrackedStream<S> {
    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TrackedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TrackedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_open_at_the_deadline_is_counted_by_kind() {
        let tracker = Tracker::default();
        let first = tracker.track("tcp");
        let (_second, _third) = (tracker.track("tcp"), tracker.track("websocket"));
        drop(first);
        assert_eq!(tracker.total(), 2);
        assert_eq!(tracker.losses().to_string(), "2 connections cut (1 tcp, 1 websocket)");
    }

    #[test]
    fn a_drain_hears_of_every_connection_that_ends() {
        let (tracker, drain) = (Tracker::default(), Drain::new(Duration::from_secs(60)));
        let open = tracker.track("tcp");
        tracker.report_to(&drain);
        assert_eq!(drain.connections(), 1);
        let seen = drain.changes();
        drop(open);
        assert_eq!(drain.wait_change(seen), None);
        assert_eq!(drain.connections(), 0);
    }
}
