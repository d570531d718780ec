//! Keys of session tickets: they rotate by a given time, travel as bytes, and are bound to whose tickets they make.
//!
//! ```text
//!   made ──────── makes tickets, opens them ────────▶ opens them ───────────────────────▶ dropped
//!        0                                       rotate                       rotate × (1 + keep)
//! ```
//!
//! A ticket is `key's ID (16) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`, sealed with AES-256-GCM-SIV (RFC 8452), which stays
//! safe with random nonces for as many tickets as a key's time allows. The additional data is the context and the ID.
//!
//! rustls opens every ticket that it is given, whatever that listener asks of clients: the context is what keeps a
//! session from being resumed where it could not have begun.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use rustls::server::ProducesTickets;
use zeroize::Zeroizing;

use crate::remembered;

/// Bytes of a key's ID, of its secret, and of an AEAD tag.
const ID_BYTES: usize = 16;
const SECRET_BYTES: usize = 32;
const TAG_BYTES: usize = 16;
/// The longest lifetime that a client may be told: seven days (RFC 8446 §4.6.1).
const MAX_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The most older keys that are kept, whatever the schedule says.
const MAX_KEEP: u32 = 64;
/// Keys that were made later than this from now on are not taken: somebody's clock was far off.
const MAX_AHEAD_SECONDS: i64 = 24 * 60 * 60;

/// The format of exported keys: this byte, their count, then for each ID, seconds since 1970 (big-endian) and secret, and
/// at last the first bytes of the BLAKE3 digest of all that.
const FORMAT: u8 = 1;
const ENTRY_BYTES: usize = ID_BYTES + 8 + SECRET_BYTES;
const CHECK_BYTES: usize = 16;

/// How keys change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    /// How long one key makes tickets.
    pub rotate: Duration,
    /// How many older keys still open theirs.
    pub keep: u32,
}

impl Schedule {
    fn rotate_seconds(&self) -> i64 {
        i64::try_from(self.rotate.as_secs().max(1)).unwrap_or(i64::MAX)
    }

    /// How many keys there are at most.
    fn keys(&self) -> usize {
        usize::try_from(self.keep.min(MAX_KEEP)).unwrap_or(0) + 1
    }

    /// For how long after it was made a key opens tickets.
    fn life_seconds(&self) -> i64 {
        self.rotate_seconds().saturating_mul(i64::try_from(self.keys()).unwrap_or(1))
    }
}

/// Ticket keys of a server, shared by all its listeners and generations.
pub struct Tickets {
    keys: ArcSwap<Keys>,
    /// Held by who changes the keys; those who use them do not wait.
    changing: Mutex<()>,
}

/// All keys, the newest first; never empty.
#[derive(Clone)]
struct Keys {
    schedule: Schedule,
    newest: Arc<Key>,
    older: Vec<Arc<Key>>,
}

struct Key {
    id: [u8; ID_BYTES],
    /// Seconds since 1970.
    made: i64,
    secret: Zeroizing<[u8; SECRET_BYTES]>,
    aead: LessSafeKey,
    /// True once it has made a ticket: until then nobody misses it.
    used: AtomicBool,
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
    /// All of them are too old, and there is no new one.
    #[error(transparent)]
    NoRandom(#[from] NoRandom),
}

/// The system gave no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes for a ticket key")]
pub struct NoRandom;

impl Key {
    fn new(made: i64) -> Result<Self, NoRandom> {
        let mut id = [0; ID_BYTES];
        let mut secret = Zeroizing::new([0; SECRET_BYTES]);
        let random = SystemRandom::new();
        random.fill(&mut id).map_err(|_| NoRandom)?;
        random.fill(secret.as_mut()).map_err(|_| NoRandom)?;
        Self::from_parts(id, made, secret).ok_or(NoRandom)
    }

    fn from_parts(id: [u8; ID_BYTES], made: i64, secret: Zeroizing<[u8; SECRET_BYTES]>) -> Option<Self> {
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM_SIV, secret.as_ref()).ok()?);
        Some(Self { id, made, secret, aead, used: AtomicBool::new(false) })
    }
}

impl Keys {
    fn all(&self) -> impl Iterator<Item = &Arc<Key>> {
        std::iter::once(&self.newest).chain(&self.older)
    }

    /// Those of all these that count, the newest first; `None` if all are too old.
    fn chosen(schedule: Schedule, mut all: Vec<Arc<Key>>, now: i64) -> Option<Self> {
        all.sort_by_key(|key| (std::cmp::Reverse(key.made), key.id));
        all.dedup_by_key(|key| key.id);
        let life = schedule.life_seconds();
        all.retain(|key| {
            key.made.saturating_add(life) > now && key.made.saturating_sub(now) <= MAX_AHEAD_SECONDS
        });
        all.truncate(schedule.keys());
        let mut all = all.into_iter();
        Some(Self { schedule, newest: all.next()?, older: all.collect() })
    }
}

impl Tickets {
    /// A first key.
    ///
    /// # Errors
    /// Where the system gives no random bytes.
    pub fn new(schedule: Schedule, now: SystemTime) -> Result<Self, NoRandom> {
        let newest = Arc::new(Key::new(seconds(now))?);
        Ok(Self::with(Keys { schedule, newest, older: Vec::new() }))
    }

    /// Goes on with keys that another process exported; no new one is made unless all are too old.
    ///
    /// # Errors
    /// Where the bytes are none.
    pub fn from_export(schedule: Schedule, exported: &[u8], now: SystemTime) -> Result<Self, ImportError> {
        let keys = read(exported)?;
        match Keys::chosen(schedule, keys, seconds(now)) {
            Some(keys) => Ok(Self::with(keys)),
            None => Ok(Self::new(schedule, now)?),
        }
    }

    fn with(keys: Keys) -> Self {
        Self { keys: ArcSwap::from_pointee(keys), changing: Mutex::new(()) }
    }

    /// Changes the schedule; it holds from the next [`Tickets::advance`] on.
    pub fn set_schedule(&self, schedule: Schedule) {
        self.change(|keys| Some(Keys { schedule, ..keys.clone() }));
    }

    /// Makes a new key if the present one's time is over, and drops what is too old. True if anything changed: then
    /// what [`Tickets::export`] gives should be carried on. Cheap when nothing is due; call it every minute or so, because
    /// nothing else ends a ticket's life.
    pub fn advance(&self, now: SystemTime) -> bool {
        let now = seconds(now);
        self.change(|keys| {
            let Keys { schedule, newest, .. } = keys;
            let over = newest.made.saturating_add(schedule.rotate_seconds()) <= now;
            // A clock that was set back: a key of the future would make tickets for too long.
            let from_the_future = newest.made.saturating_sub(now) > MAX_AHEAD_SECONDS;
            let due = over || from_the_future;
            // Without random bytes the present key goes on: resumption is better than none.
            let fresh = if due { Key::new(now).ok().map(Arc::new) } else { None };
            let all: Vec<Arc<Key>> = fresh.iter().chain(keys.all()).cloned().collect();
            let next = Keys::chosen(*schedule, all, now)?;
            let same = next.all().map(|key| key.id).eq(keys.all().map(|key| key.id));
            (!same).then_some(next)
        })
    }

    /// The keys as bytes, for the next process or a backup: secret.
    #[must_use]
    pub fn export(&self) -> Zeroizing<Vec<u8>> {
        let keys = self.keys.load();
        let count = keys.older.len() + 1;
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 + count * ENTRY_BYTES + CHECK_BYTES));
        bytes.extend([FORMAT, u8::try_from(count).unwrap_or(u8::MAX)]);
        for key in keys.all() {
            bytes.extend_from_slice(&key.id);
            bytes.extend_from_slice(&key.made.to_be_bytes());
            bytes.extend_from_slice(key.secret.as_ref());
        }
        let check = checksum(&bytes);
        bytes.extend_from_slice(&check);
        bytes
    }

    /// Takes exported keys as well, as from a backup or the process before: the newest of all makes tickets from now on,
    /// the others open them. Keys that have made no ticket yet give way: so a process that begins with a key of its own,
    /// and then gets those that it was to go on with, has just those. True if anything changed.
    ///
    /// # Errors
    /// Where the bytes are none; then nothing changed.
    pub fn import(&self, exported: &[u8], now: SystemTime) -> Result<bool, ImportError> {
        let others = read(exported)?;
        let now = seconds(now);
        Ok(self.change(|keys| {
            let used = keys.all().filter(|key| key.used.load(Ordering::Relaxed));
            let all: Vec<Arc<Key>> = used.cloned().chain(others).collect();
            let next = Keys::chosen(keys.schedule, all, now)?;
            let same = next.all().map(|key| key.id).eq(keys.all().map(|key| key.id));
            (!same).then_some(next)
        }))
    }

    /// A producer whose tickets only those of the same context open: a listener's name and its rules for clients'
    /// certificates belong into it, so that a session never resumes where it could not have begun.
    #[must_use]
    pub fn bound_to(self: &Arc<Self>, context: [u8; 32]) -> Arc<dyn ProducesTickets> {
        Arc::new(Bound { tickets: Arc::clone(self), context })
    }

    /// Replaces the keys by what `next` makes of them, if anything; true if it did.
    fn change(&self, next: impl FnOnce(&Keys) -> Option<Keys>) -> bool {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        match next(&self.keys.load()) {
            Some(keys) => {
                self.keys.store(Arc::new(keys));
                true
            }
            None => false,
        }
    }
}

fn seconds(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    blake3::Hasher::new().update(bytes).finalize_xof().fill(&mut check);
    check
}

/// Reads what [`Tickets::export`] wrote.
fn read(exported: &[u8]) -> Result<Vec<Arc<Key>>, ImportError> {
    let (body, check) = exported.split_last_chunk::<CHECK_BYTES>().ok_or(ImportError::Damaged)?;
    match body.first() {
        Some(&FORMAT) => {}
        Some(other) => return Err(ImportError::Version(*other)),
        None => return Err(ImportError::Damaged),
    }
    let entries = body.get(2..).unwrap_or_default();
    let count = body.get(1).copied().map_or(0, usize::from);
    if checksum(body) != *check || count == 0 || entries.len() != count * ENTRY_BYTES {
        return Err(ImportError::Damaged);
    }
    let entry = |bytes: &[u8]| -> Option<Arc<Key>> {
        let (id, rest) = bytes.split_first_chunk::<ID_BYTES>()?;
        let (made, secret) = rest.split_first_chunk::<8>()?;
        let secret = Zeroizing::new(<[u8; SECRET_BYTES]>::try_from(secret).ok()?);
        Key::from_parts(*id, i64::from_be_bytes(*made), secret).map(Arc::new)
    };
    entries.chunks(ENTRY_BYTES).map(|bytes| entry(bytes).ok_or(ImportError::Damaged)).collect()
}

/// How many keys, and which; never their secrets.
impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.load();
        f.debug_struct("Tickets")
            .field("schedule", &keys.schedule)
            .field("keys", &(keys.older.len() + 1))
            .finish_non_exhaustive()
    }
}

/// Tickets of one context.
#[derive(Debug)]
struct Bound {
    tickets: Arc<Tickets>,
    context: [u8; 32],
}

impl Bound {
    fn associated(&self, id: &[u8; ID_BYTES]) -> Aad<[u8; 32 + ID_BYTES]> {
        let mut bytes = [0; 32 + ID_BYTES];
        let (context, rest) = bytes.split_at_mut(32);
        context.copy_from_slice(&self.context);
        rest.copy_from_slice(id);
        Aad::from(bytes)
    }
}

impl ProducesTickets for Bound {
    fn enabled(&self) -> bool {
        true
    }

    /// The time for which every ticket is good that is made now.
    fn lifetime(&self) -> u32 {
        let schedule = self.tickets.keys.load().schedule;
        let lifetime = schedule.rotate.saturating_mul(schedule.keep.clamp(1, MAX_KEEP)).min(MAX_LIFETIME);
        u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.tickets.keys.load();
        let key = &keys.newest;
        if !key.used.load(Ordering::Relaxed) {
            key.used.store(true, Ordering::Relaxed);
        }
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(ID_BYTES + NONCE_LEN + plain.len() + TAG_BYTES);
        ticket.extend_from_slice(&key.id);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let sealed = ticket.get_mut(ID_BYTES + NONCE_LEN..)?;
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = key.aead.seal_in_place_separate_tag(nonce, self.associated(&key.id), sealed).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (id, rest) = cipher.split_first_chunk::<ID_BYTES>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let keys = self.tickets.keys.load();
        let key = keys.all().find(|key| key.id == *id)?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.aead.open_in_place(nonce, self.associated(id), &mut plain).ok()?.len();
        plain.truncate(length);
        (!remembered::is_over(&plain, seconds(SystemTime::now()))).then_some(plain)
    }
}
