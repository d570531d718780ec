//! The sockets of a generation: asked for in one go, and the same as before where they serve already.
//!
//! ```text
//!   listeners, metrics, sockets of programs ─▶ Need ─▶ Bound ─┬─▶ the data plane accepts from those of its own
//!                                                             └─▶ those of programs are only held
//! ```

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use handover::{Address, BindError, Bound, ListenerSpec, Prepare, Problem};

use super::{Plane, programs};
use crate::config::{self, ListenAddress};
use crate::event_loop::Socket;
use crate::generation::{Generation, ListenerKind};

impl Plane {
    /// Asks for all listeners of a generation, and for the sockets of its programs, of which it says only where they listen.
    /// Sockets that serve already stay as they are.
    pub(super) fn bind(
        &self,
        generation: &Generation,
        cx: &mut Prepare,
        spans: &config::Spans,
        problems: &mut Vec<Problem>,
    ) -> (Vec<Socket>, Vec<String>) {
        let mut wanted = Vec::new();
        for (position, listener) in generation.listeners.iter().enumerate() {
            let backlog = generation.backlog(position);
            for (index, address) in generation.addresses(position).iter().enumerate() {
                let metrics = matches!(listener.kind, ListenerKind::Metrics(_));
                wanted.push((Arc::clone(&listener.name), index, address.clone(), backlog, metrics));
            }
        }
        let mut specs: Vec<_> = wanted
            .iter()
            .map(|(name, _, address, backlog, _)| ListenerSpec {
                name: name.to_string(),
                address: Address::from(address),
                backlog: *backlog,
            })
            .collect();
        specs.extend(programs::needed(&generation.config));
        let mut results = cx.bind(&specs).into_iter();
        let current = self.sockets.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut counts: HashMap<Arc<str>, Arc<AtomicU32>> =
            current.iter().map(|socket| (Arc::clone(&socket.name), Arc::clone(&socket.open))).collect();
        let mut sockets = Vec::new();
        let mut cancelled = false;
        for ((name, index, address, _, metrics), result) in wanted.into_iter().zip(results.by_ref()) {
            match result {
                Ok(Bound::OnlyChecked) => {}
                Ok(Bound::Socket(fd)) => {
                    let known = current.iter().find(|socket| {
                        socket.name == name && socket.address == address && is_same_socket(&socket.fd, &fd)
                    });
                    sockets.push(match known {
                        Some(known) => known.clone(),
                        None => {
                            let open = Arc::clone(counts.entry(Arc::clone(&name)).or_default());
                            self.new_socket(name, address, fd, open)
                        }
                    });
                }
                Err(BindError::Cancelled) => cancelled = true,
                Err(BindError::Refused { detail, .. }) if metrics => {
                    problems.push(spans.problem_for_metrics(index, &detail));
                }
                Err(BindError::Refused { detail, .. }) => {
                    problems.push(spans.problem_for_listener(&name, index, &detail));
                }
            }
        }
        if cancelled {
            problems.push(Problem::new(BindError::Cancelled.to_string()));
        }
        let places = programs::bound(&generation.config, results, spans, problems);
        (sockets, places)
    }

    fn new_socket(
        &self,
        name: Arc<str>,
        address: ListenAddress,
        fd: OwnedFd,
        open: Arc<AtomicU32>,
    ) -> Socket {
        // Connections inherit NODELAY from their listener: one call here instead of one for each of them. Accepting must never wait.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
        let _ = rustix::io::ioctl_fionbio(&fd, true);
        let serial = self.next_serial.fetch_add(1, Ordering::Relaxed);
        Socket { serial, name, address, fd: Arc::new(fd), open }
    }
}

/// Two descriptors of one socket have the same inode.
fn is_same_socket(a: &OwnedFd, b: &OwnedFd) -> bool {
    match (rustix::fs::fstat(a), rustix::fs::fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino),
        _ => false,
    }
}
