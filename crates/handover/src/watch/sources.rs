//! The thread that waits for what is no file.
//!
//! ```text
//!   waiting ── changed ──▶ told ── it was read ──▶ waiting
//!      │ cannot be reached: said once, waits longer and longer
//! ```

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread;
use std::time::Duration;

use super::{LONGEST_RETRY, Source};

/// The first pause after a source could not be reached.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause; a source that is back is found within it.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

const _: () = assert!(LONGEST_PAUSE.as_secs() <= LONGEST_RETRY.as_secs());

/// A source that is waited for, until this is dropped (and its wait is over).
pub(super) struct Waiting {
    source: Arc<dyn Source>,
    go: SyncSender<()>,
}

impl Waiting {
    /// Waits for the source; `tell` gets what happened.
    pub(super) fn start(
        source: Arc<dyn Source>,
        tell: impl Fn(String) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (go, may_go) = mpsc::sync_channel(1);
        let waited_for = Arc::clone(&source);
        thread::Builder::new()
            .name("watch-source".to_owned())
            .spawn(move || wait(&*waited_for, &tell, &may_go))?;
        Ok(Self { source, go })
    }

    /// Whether it is this one.
    pub(super) fn is_for(&self, source: &Arc<dyn Source>) -> bool {
        Arc::ptr_eq(&self.source, source)
    }

    /// It has been read, whatever came of that: what comes now is news.
    pub(super) fn was_read(&self) {
        // If it is full the thread will go on anyway.
        let _ = self.go.try_send(());
    }
}

fn wait(source: &dyn Source, tell: &dyn Fn(String), may_go: &Receiver<()>) {
    let (mut trouble, mut pause) = (None, FIRST_PAUSE);
    loop {
        match source.wait() {
            Ok(news) => {
                if trouble.take().is_some() {
                    tracing::info!("{} can be watched again", source.name());
                }
                pause = FIRST_PAUSE;
                if let Some(what) = news {
                    tell(what);
                    if may_go.recv().is_err() {
                        return;
                    }
                }
                if may_go.try_recv() == Err(TryRecvError::Disconnected) {
                    return;
                }
            }
            Err(why) => {
                if trouble.as_ref() != Some(&why) {
                    tracing::warn!("{} cannot be watched at the moment: {why}", source.name());
                    trouble = Some(why);
                }
                if may_go.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
            }
        }
    }
}
