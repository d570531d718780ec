//! The thread that watches: it waits for the kernel's news, for orders, and for its own times.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use handover_handoff::Bundle;
use rustix::event::{PollFd, PollFlags, Timespec};

use super::baseline::{Baseline, Snapshot};
use super::decide::{Act, Decide, Found};
use super::kernel::Kernel;
use super::sources::Waiting;
use super::{Came, Watch, places};
use crate::files::Seen;
use crate::worker::{Mailbox, Post, mailbox, panic_text};

/// How often files are looked at that the kernel says nothing about.
const LOOK_ANYWAY: Duration = Duration::from_secs(10);

/// What the watch is told.
enum Order {
    Serving { watch: Watch, bundle: Arc<Bundle>, came: Came },
    Tried(Arc<Vec<Seen>>),
    Answered { done: bool, detail: String },
    Source(String),
    Stop,
}

/// A watch that runs until this is dropped.
pub(crate) struct Watcher {
    orders: Post<Order>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher").finish_non_exhaustive()
    }
}

impl Watcher {
    /// Starts the thread; `ask` is called for every reload that should be asked for. Nothing is watched yet.
    pub(crate) fn start(ask: impl Fn(String) + Send + 'static) -> std::io::Result<Self> {
        let (inbox, orders) = mailbox()?;
        let thread = Thread {
            inbox,
            orders: orders.clone(),
            ask: Box::new(ask),
            decide: Decide::new(Duration::ZERO, Duration::ZERO),
            baseline: Baseline::default(),
            kernel: None,
            trouble: None,
            snapshot: None,
            waiting: None,
            look_anyway: None,
        };
        thread::Builder::new().name("watch".to_owned()).spawn(move || {
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| thread.run())) {
                tracing::error!("nothing is watched any more: {}", panic_text(&payload));
            }
        })?;
        Ok(Self { orders })
    }

    /// A generation serves: watch its files.
    pub(crate) fn serving(&self, watch: Watch, bundle: Arc<Bundle>, came: Came) {
        self.orders.send(Order::Serving { watch, bundle, came });
    }

    /// A prepare has looked at these files, whatever came of it.
    pub(crate) fn tried(&self, seen: Arc<Vec<Seen>>) {
        self.orders.send(Order::Tried(seen));
    }

    /// What came of the reload that was asked for.
    pub(crate) fn asked(&self, done: bool, detail: &str) {
        self.orders.send(Order::Answered { done, detail: detail.to_owned() });
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.orders.send(Order::Stop);
    }
}

struct Thread {
    inbox: Mailbox<Order>,
    orders: Post<Order>,
    ask: Box<dyn Fn(String) + Send>,
    decide: Decide,
    baseline: Baseline,
    kernel: Option<Kernel>,
    /// Why the kernel does not say everything, as it was said last.
    trouble: Option<String>,
    /// The files at the last look.
    snapshot: Option<Snapshot>,
    waiting: Option<Waiting>,
    look_anyway: Option<Instant>,
}

impl Thread {
    fn run(mut self) {
        loop {
            if let Err(errno) = self.wait() {
                // Nothing but poll itself fails here, and without it nothing can be waited for.
                tracing::error!("nothing is watched any more: {}", std::io::Error::from(errno));
                return;
            }
            while let Some(order) = self.inbox.next() {
                if !self.obey(order) {
                    return;
                }
            }
            if self.kernel.as_ref().is_some_and(Kernel::has_news) {
                self.event();
            }
            let now = Instant::now();
            if self.look_anyway.is_some_and(|at| at <= now) {
                self.event();
                self.look_anyway = Some(now + LOOK_ANYWAY);
            }
            if self.decide.look_at().is_some_and(|at| at <= now) {
                self.look(now);
            }
        }
    }

    fn wait(&self) -> rustix::io::Result<()> {
        let mut fds = vec![PollFd::new(&self.inbox, PollFlags::IN)];
        let news = self.kernel.as_ref().and_then(Kernel::descriptor);
        fds.extend(news.as_ref().map(|news| PollFd::new(news, PollFlags::IN)));
        let until = self.decide.look_at().into_iter().chain(self.look_anyway).min();
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Does what it is told; `false` if that is to stop.
    fn obey(&mut self, order: Order) -> bool {
        match order {
            Order::Serving { watch, bundle, came } => {
                self.decide.set(watch.settle, watch.retry);
                self.decide.serving(came != Came::FromElsewhere);
                self.baseline.serving(&bundle, came);
                self.follow(watch);
                // What happened before this set was watched is found by looking.
                self.event();
            }
            Order::Tried(seen) => {
                self.baseline.tried(&seen);
                self.source_was_read();
                self.event();
            }
            Order::Answered { done, detail } => {
                if !done {
                    tracing::info!("the reload that the watch asked for has not come about: {detail}");
                }
                self.decide.answered(Instant::now(), done);
            }
            Order::Source(what) => self.decide.source(Instant::now(), what),
            Order::Stop => return false,
        }
        true
    }

    /// Waits for the source, if there is one.
    fn follow(&mut self, watch: Watch) {
        let Some(source) = watch.source else {
            self.waiting = None;
            return;
        };
        if self.waiting.as_ref().is_some_and(|waiting| waiting.is_for(&source)) {
            return self.source_was_read();
        }
        let (orders, name) = (self.orders.clone(), source.name());
        self.waiting = match Waiting::start(source, move |what| orders.send(Order::Source(what))) {
            Ok(waiting) => Some(waiting),
            Err(error) => {
                tracing::error!("{name} is not watched: a thread could not be started: {error}");
                None
            }
        };
    }

    fn source_was_read(&self) {
        if let Some(waiting) = &self.waiting {
            waiting.was_read();
        }
    }

    /// Something may have happened to a file. The first time of several, what is there now is remembered.
    fn event(&mut self) {
        if self.decide.is_quiet() {
            self.watch();
            self.snapshot = Some(self.baseline.snapshot());
        }
        self.decide.event(Instant::now());
    }

    fn look(&mut self, now: Instant) {
        // First the directories, so that what changes from here on is news, then the files.
        self.watch();
        let snapshot = Some(self.baseline.snapshot());
        let found = if self.snapshot == snapshot {
            match self.baseline.changed() {
                None => Found::Same,
                Some((file, 0)) => Found::Differs(format!("{} changed", file.display())),
                Some((file, more)) => Found::Differs(format!("{} and {more} more changed", file.display())),
            }
        } else {
            self.snapshot = snapshot;
            Found::Moving
        };
        if let Act::Ask(why) = self.decide.looked(now, found) {
            tracing::debug!("asking for a reload: {why}");
            (self.ask)(why);
        }
    }

    /// Watches the directories in which the files are now.
    fn watch(&mut self) {
        let places = places::of(self.baseline.paths());
        let trouble = match &mut self.kernel {
            Some(kernel) => kernel.watch(&places),
            None => {
                let (mut kernel, trouble) = Kernel::new();
                let trouble = trouble.or_else(|| kernel.watch(&places));
                self.kernel = kernel.descriptor().is_some().then_some(kernel);
                trouble
            }
        };
        if trouble.is_none() {
            self.look_anyway = None;
        } else if self.trouble != trouble {
            self.look_anyway.get_or_insert_with(|| Instant::now() + LOOK_ANYWAY);
            let every = LOOK_ANYWAY.as_secs();
            let why = trouble.as_deref().unwrap_or_default();
            tracing::warn!("{why}; the files are looked at every {every} seconds instead");
        }
        self.trouble = trouble;
    }
}
