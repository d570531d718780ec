//! Keys of session tickets: they rotate by a given time, travel as bytes, and are bound to whose tickets they make.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

/// How keys change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// How long one key makes tickets.
    pub rotate: Duration,
    /// How many older keys still open theirs.
    pub keep: u32,
}

/// Ticket keys of a server, shared by all its listeners and generations.
#[derive(Debug)]
pub struct Tickets {
    schedule: Schedule,
}

/// Why exported keys cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// They were written by a version that this one does not know.
    #[error("the ticket keys have the format {0}, which this version does not know")]
    Version(u8),
    /// They are cut short or spoilt.
    #[error("the ticket keys are damaged")]
    Damaged,
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes for a ticket key")]
pub struct NoRandom;

impl Tickets {
    /// A first key.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub fn new(schedule: Schedule, now: SystemTime) -> Result<Self, NoRandom> {
        let _ = now;
        Ok(Self { schedule })
    }

    /// Changes the schedule; it holds from the next [`Tickets::advance`] on.
    pub fn set_schedule(&self, schedule: Schedule) {
        let _ = schedule;
    }

    /// Makes a new key if the present one's time is over, and drops what is too old. True if anything changed: then
    /// what [`Tickets::export`] gives should be carried on. Cheap when nothing is due; call it every minute or so.
    pub fn advance(&self, now: SystemTime) -> bool {
        let _ = (now, self.schedule);
        false
    }

    /// The keys as bytes, for the next process or a backup: secret.
    #[must_use]
    pub fn export(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(Vec::new())
    }

    /// Takes exported keys: the newest of all makes tickets from now on, the others open them.
    ///
    /// # Errors
    /// Where the bytes are none; then nothing changed.
    pub fn import(&self, exported: &[u8], now: SystemTime) -> Result<(), ImportError> {
        let _ = (exported, now);
        Ok(())
    }

    /// A producer whose tickets only those of the same context open: a listener's name and its rules for clients'
    /// certificates belong into it, so that a session never resumes where it could not have begun.
    #[must_use]
    pub fn bound_to(self: &Arc<Self>, context: [u8; 32]) -> Arc<dyn ProducesTickets> {
        Arc::new(Bound { tickets: Arc::clone(self), context })
    }
}

/// Tickets of one context.
#[derive(Debug)]
struct Bound {
    tickets: Arc<Tickets>,
    context: [u8; 32],
}

impl ProducesTickets for Bound {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.tickets.schedule.rotate.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let _ = (plain, self.context);
        None
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let _ = cipher;
        None
    }
}
