//! The thread in which a service is called during a move, one call after the other, so that the thread of the move hears of
//! deadlines and deaths whatever the service does.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::JoinHandle;

use crate::service::Service;
use crate::worker::panic_text;

type Job = Box<dyn FnOnce(&dyn Service) + Send>;

/// The calls of one move.
pub(crate) struct Calls {
    service: Arc<dyn Service>,
    jobs: Sender<Job>,
    thread: JoinHandle<()>,
}

impl Calls {
    /// A thread that waits for calls.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn start(service: &Arc<dyn Service>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let called = Arc::clone(service);
        let thread = std::thread::Builder::new().name("moving-calls".to_owned()).spawn(move || {
            while let Ok(job) = queue.recv() {
                job(&*called);
            }
        })?;
        Ok(Self { service: Arc::clone(service), jobs, thread })
    }

    /// The service, for what can be asked from anywhere.
    pub(crate) fn service(&self) -> &dyn Service {
        &*self.service
    }

    /// Calls the service behind what was called before, and gives what came of it to `then`, in that thread. A panic is an
    /// error.
    pub(crate) fn call<T: 'static>(
        &self,
        name: &'static str,
        call: impl FnOnce(&dyn Service) -> T + Send + 'static,
        then: impl FnOnce(Result<T, String>) + Send + 'static,
    ) {
        let job = move |service: &dyn Service| {
            let result = catch_unwind(AssertUnwindSafe(|| call(service)));
            then(result.map_err(|payload| format!("{name} panicked: {}", panic_text(&payload))));
        };
        // The thread lives as long as this value.
        let _ = self.jobs.send(Box::new(job));
    }

    /// Waits until every call has returned.
    pub(crate) fn finish(self) {
        let Self { jobs, thread, .. } = self;
        drop(jobs);
        let _ = thread.join();
    }
}
