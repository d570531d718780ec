//! Actions, and the end of listening: what the supervisor asks for that makes no generation.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use handover_handoff::Bundle;
use handover_supervisor::protocol::{ListenerSpec, ToSupervisor};

use super::Number;
use super::control::Control;
use crate::prepare::{CalledOff, Origin, Prepare};

/// Actions that may run at the same time.
const MAX_ACTIONS: usize = 16;

impl Control {
    /// The server is about to end. This process's own copies of the sockets go as well, else they would stay open.
    pub(super) fn close_listeners(&mut self) {
        self.errands.service.close_listeners();
        if let Some(served) = &mut self.served {
            served.listeners.clear();
        }
        self.held.clear();
    }

    pub(super) fn action(&mut self, call: u64, name: String, body: String) {
        if self.actions >= MAX_ACTIONS {
            let message = format!("{MAX_ACTIONS} actions run already");
            return self.send(&ToSupervisor::ActionDone { call, ok: false, message }, &[]);
        }
        self.actions += 1;
        let generation = self.served.as_ref().map_or(0, |served| served.generation);
        let nothing = Box::new(|_: &[ListenerSpec]| None);
        let (base, origin) = (self.base.clone(), Origin::default());
        let files = Prepare::new(generation, false, base, origin, CalledOff::default(), nothing);
        self.errands.action(self.number(call), name, body, files);
    }

    /// What an action has read takes the place of the same files in what serves, so that the next supervisor, or a
    /// worker that replaces this one, gets what serves indeed.
    pub(super) fn action_done(&mut self, call: Number, result: Result<String, String>, files: &Bundle) {
        self.actions = self.actions.saturating_sub(1);
        let ok = result.is_ok();
        let renewed = if ok && !files.is_empty() { self.renew(files) } else { false };
        if !self.is_of_now(call) {
            return;
        }
        let message = result.unwrap_or_else(|error| error);
        let memfd = self.served.as_ref().filter(|_| renewed).map(|served| served.memfd.as_fd());
        self.send(&ToSupervisor::ActionDone { call: call.number, ok, message }, memfd.as_slice());
    }

    /// Puts newer bytes into the bundle of what serves.
    fn renew(&mut self, files: &Bundle) -> bool {
        let Some(served) = &mut self.served else { return false };
        let mut bundle = Bundle::clone(&served.bundle);
        let top = bundle.top().map(std::path::Path::to_owned);
        for (path, file) in files.files() {
            let insert = if top.as_deref() == Some(path) { Bundle::insert_top } else { Bundle::insert };
            if let Err(error) = insert(&mut bundle, path, file.bytes.clone()) {
                tracing::warn!("the files that an action has read cannot be kept: {error}");
                return false;
            }
        }
        match bundle.to_memfd() {
            Ok(memfd) => {
                (served.bundle, served.memfd) = (Arc::new(bundle), memfd);
                true
            }
            Err(error) => {
                tracing::warn!("the files that an action has read cannot be kept: {error}");
                false
            }
        }
    }
}
