//! The journal's own thread: a slow disk delays what must be written, and nothing else.
//!
//! Everything about the journal is done here, in the order in which it was asked for. Writers are called back
//! on this thread; readers wait for their answer.

use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::journal::Journal;

/// How long the journal may take to write what is left, at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

enum Job {
    Do(Box<dyn FnOnce(&mut Journal) + Send>),
    /// Close the journal, then drop this.
    Close(mpsc::Sender<()>),
}

/// The line to the journal's thread.
#[derive(Debug, Clone)]
pub(crate) struct Scribe {
    jobs: mpsc::Sender<Job>,
}

impl Scribe {
    /// Starts the thread.
    pub(crate) fn start(mut journal: Journal) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::Builder::new().name("journal".to_owned()).spawn(move || {
            // Signals are the main thread's: it must be able to keep them back.
            if let Err(error) = handover_handoff::signals::block_managed() {
                tracing::warn!("signals cannot be kept from the journal's thread: {error}");
            }
            for job in &queue {
                match job {
                    Job::Do(job) => {
                        job(&mut journal);
                        journal.tidy();
                    }
                    Job::Close(closed) => {
                        drop(journal);
                        drop(closed);
                        return;
                    }
                }
            }
        })?;
        Ok(Scribe { jobs })
    }

    /// Does something with the journal some time soon. Whoever wants to know what came of it says so inside.
    pub(crate) fn later(&self, job: impl FnOnce(&mut Journal) + Send + 'static) {
        // Fails only if the thread has panicked; then there is nobody left to tell.
        let _ = self.jobs.send(Job::Do(Box::new(job)));
    }

    /// Waits until everything is written and the journal is closed, so that the next supervisor can open it; but
    /// not for long, if the disk hangs.
    pub(crate) fn close(self) {
        let (closing, closed) = mpsc::channel();
        let _ = self.jobs.send(Job::Close(closing));
        if closed.recv_timeout(CLOSE_LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the journal could not be closed within {} s", CLOSE_LIMIT.as_secs());
        }
    }

    /// Waits until everything is written that was asked for before, but not longer than `limit`. Gives the journal's lock,
    /// for another program in this one's place. Blocks.
    ///
    /// # Errors
    /// A sentence: the disk hangs, or the process is out of descriptors.
    pub(crate) fn rest(&self, limit: Duration) -> Result<OwnedFd, String> {
        let (done, rested) = mpsc::channel();
        self.later(move |journal| {
            let _ = done.send(journal.lock());
        });
        match rested.recv_timeout(limit) {
            Ok(lock) => lock.map_err(|error| format!("the journal's lock cannot be left: {error}")),
            Err(_) => Err(format!("the journal has not written everything within {limit:?}")),
        }
    }

    /// Asks the journal something, after everything that was asked for before. `None` if its thread is gone.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Journal) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.later(move |journal| {
            let _ = answer.send(question(journal));
        });
        answered.await.ok()
    }
}
