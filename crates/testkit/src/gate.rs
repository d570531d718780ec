//! Gates: how a test holds a server's handler at a chosen point and lets it go on.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::deadline::{DEADLINE, Deadline, PATIENCE};

#[derive(Debug, Default)]
struct State {
    open: bool,
    waiting: usize,
}

/// A gate that is shut until somebody opens it; then it stays open. Clones are the same gate.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<(Mutex<State>, Condvar)>);

impl Gate {
    /// A shut gate.
    #[must_use]
    pub fn shut() -> Self {
        Self::default()
    }

    /// Lets everybody through, now and later.
    pub fn open(&self) {
        self.lock().open = true;
        self.0.1.notify_all();
    }

    /// Waits until the gate is open.
    pub fn pass(&self) {
        let mut state = self.lock();
        state.waiting += 1;
        self.0.1.notify_all();
        self.wait(PATIENCE, state, "a gate to open", |state| state.open);
    }

    /// Waits until `count` callers have arrived at the gate (whether or not they have passed it since).
    pub fn arrived(&self, count: usize) {
        let state = self.lock();
        self.wait(DEADLINE, state, "callers to arrive at a gate", |state| state.waiting >= count);
    }

    /// A wait that was in vain must not hide behind those that follow from it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(
        &self,
        limit: Duration,
        mut state: MutexGuard<'_, State>,
        what: &str,
        enough: impl Fn(&State) -> bool,
    ) {
        let deadline = Deadline::after(limit);
        while !enough(&state) {
            assert!(!deadline.passed(), "waited {limit:?} in vain for {what}");
            state = self.0.1.wait_timeout(state, deadline.left()).unwrap().0;
        }
    }
}

/// Gates by name, made when first asked for.
#[derive(Debug, Clone, Default)]
pub struct Gates(Arc<Mutex<HashMap<String, Gate>>>);

impl Gates {
    /// The gate of this name.
    #[must_use]
    pub fn named(&self, name: &str) -> Gate {
        self.0.lock().unwrap().entry(name.to_owned()).or_default().clone()
    }

    /// Opens every gate that exists, so that no handler stays behind when a test ends.
    pub fn open_all(&self) {
        for gate in self.0.lock().unwrap().values() {
            gate.open();
        }
    }
}
