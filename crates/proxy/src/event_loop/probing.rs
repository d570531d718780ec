//! The question whether this thread serves, before it does: it comes as a connection to a socket of its own, and is answered like any
//! other connection by who accepts it.
//!
//! ```text
//!   Probe: watched ──a connection──▶ accepted, answered, closed ──▶ no longer watched
//! ```

use handover::moving::Probe;
use rustix::net::{SendFlags, send};

use super::giving::thread_number;
use super::*;

/// A question that was not answered yet, and its slot in the poller.
pub(super) type Asked = (Arc<Probe>, u32);

impl EventLoop {
    /// Watches the socket of a question. One that was not answered is forgotten.
    pub(super) fn watch_probe(&mut self, probe: Arc<Probe>) {
        self.forget_probe();
        match self.cx.reactor.watch(&*probe, Owner::Probe, false) {
            Ok(slot) => self.probe = Some((probe, slot)),
            Err(errno) => tracing::error!("the question whether this worker serves cannot be heard: {errno}"),
        }
    }

    fn forget_probe(&mut self) {
        if let Some((probe, slot)) = self.probe.take() {
            self.cx.reactor.unwatch(&*probe, slot);
        }
    }

    /// Accepts one connection, and answers. All threads are woken; there is a connection for each.
    pub(super) fn answer_probe(&mut self) {
        let Some((probe, _)) = &self.probe else { return };
        let probe = Arc::clone(probe);
        let fd = match acceptfrom_with(&*probe, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((fd, _)) => fd,
            // Another thread was faster, or it is interrupted: the socket says again if there is one more.
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return,
            Err(errno) => {
                tracing::error!("the question whether this worker serves cannot be accepted: {errno}");
                self.forget_probe();
                return;
            }
        };
        self.forget_probe();
        let thread = thread_number(self.cx.thread);
        let answer = probe.answer(thread);
        match send(&fd, &answer, SendFlags::NOSIGNAL) {
            Ok(count) if count == answer.len() => probe.answered(thread),
            // It is not answered then, and who asks finds that out.
            result => tracing::error!("the question whether this worker serves was not answered: {result:?}"),
        }
    }
}
