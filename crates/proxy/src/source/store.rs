//! A store of configurations: read in prepare, and waited for while it is watched.
//!
//! ```text
//!   prepare ─▶ fetch ─▶ what was read last ─┐
//!   watch ───▶ wait ◀── is it that still? ──┴─ no ─▶ a reload is asked for, which fetches
//! ```

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use handover::watch::Source;

use super::access::Access;
use super::client::Trouble;
use super::etcd::Etcd;
use super::https::{self, Page, Tag};
use super::location::{Kind, Location};

/// A configuration as a store gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetched {
    pub(crate) bytes: Vec<u8>,
    /// What the store calls this state: `etcd revision 42`, `ETag "a1b2"`.
    pub(crate) version: Option<String>,
}

/// A state of the store, as far as states can be told from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// The revision in which the key was changed last; `None` if there is none.
    Etcd(Option<u64>),
    /// The page's tag, and BLAKE3 of its bytes.
    Page(Option<Tag>, [u8; 32]),
}

/// What the watch has to know of what was read.
#[derive(Debug, Default)]
struct Last {
    /// The state that was read last.
    read: Option<State>,
    /// BLAKE3 of what serves, if a worker that has ended has read it.
    continues: Option<[u8; 32]>,
    /// The last time it could not be read: as soon as it can be, that is news.
    failed: bool,
    next_poll: Option<Instant>,
    poll: Duration,
}

/// A store, and what was read of it last.
pub(crate) struct Store {
    location: Location,
    access: Access,
    last: Mutex<Last>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("location", &self.location.to_string()).finish_non_exhaustive()
    }
}

impl Store {
    pub(crate) fn new(location: Location, access: Access) -> Self {
        Self { location, access, last: Mutex::default() }
    }

    /// Reads the configuration. `only_look` for a dry run, after which the store is as unread as before.
    pub(crate) fn fetch(&self, only_look: bool) -> Result<Fetched, Trouble> {
        let got = self.get();
        if !only_look {
            let mut last = self.last();
            last.failed = got.is_err();
            if let Ok((state, _)) = &got {
                last.read = Some(state.clone());
                last.next_poll = None;
            }
        }
        match got? {
            (_, Some(fetched)) => Ok(fetched),
            (_, None) => Err(Trouble::refused("there is no such key")),
        }
    }

    /// How often a page is asked for from now on.
    pub(crate) fn set_poll(&self, poll: Duration) {
        self.last().poll = poll;
    }

    fn get(&self) -> Result<(State, Option<Fetched>), Trouble> {
        match &self.location.kind {
            Kind::Etcd { key } => {
                let answer = Etcd::open(&self.location, key, &self.access)?.range()?;
                let state = State::Etcd(answer.value.as_ref().map(|value| value.revision));
                let fetched = answer.value.map(|value| Fetched {
                    bytes: value.bytes,
                    version: Some(format!("etcd revision {}", value.revision)),
                });
                Ok((state, fetched))
            }
            Kind::Web { path_and_query } => {
                let page = https::get(&self.location, path_and_query, &self.access, None)?;
                let Page { bytes, tag } =
                    page.ok_or_else(|| Trouble::unreachable("it answers what was not asked"))?;
                let version = tag.as_ref().map(Tag::words);
                Ok((State::Page(tag, digest(&bytes)), Some(Fetched { bytes, version })))
            }
        }
    }

    /// These bytes serve, and were read here by a worker that has ended.
    pub(crate) fn continues(&self, bytes: &[u8]) {
        self.last().continues = Some(digest(bytes));
    }

    /// Whether this state, with these bytes, is news; if nothing was read yet and nothing is known of who came before,
    /// it is what will be compared with.
    fn is_news(&self, now: &State, bytes: Option<[u8; 32]>) -> bool {
        let mut last = self.last();
        match (&last.read, last.continues) {
            _ if last.failed => true,
            (Some(read), _) => read != now,
            (None, Some(serving)) if bytes != Some(serving) => true,
            (None, _) => {
                last.read = Some(now.clone());
                false
            }
        }
    }

    fn wait_etcd(&self, key: &str) -> Result<Option<String>, Trouble> {
        let etcd = Etcd::open(&self.location, key, &self.access)?;
        let answer = etcd.range()?;
        let bytes = answer.value.as_ref().map(|value| digest(&value.bytes));
        let revision = answer.value.map(|value| value.revision);
        if self.is_news(&State::Etcd(revision), bytes) {
            return Ok(Some(match revision {
                Some(revision) => format!("{} is at revision {revision}", self.location),
                None => format!("{} is gone", self.location),
            }));
        }
        let changed = etcd.wait(answer.now)?;
        Ok(changed.then(|| format!("{} changed", self.location)))
    }

    fn wait_page(&self, path_and_query: &str) -> Result<Option<String>, Trouble> {
        let (known, pause) = {
            let mut last = self.last();
            let now = Instant::now();
            let next = now + last.poll;
            let next = *last.next_poll.get_or_insert(next);
            let known = match &last.read {
                Some(State::Page(tag, _)) if !last.failed => tag.clone(),
                _ => None,
            };
            // Until it was read once there is nothing to wait for.
            let pause = if last.failed { Duration::ZERO } else { next.saturating_duration_since(now) };
            (known, pause)
        };
        if pause > self.access.patience.watch {
            thread::sleep(self.access.patience.watch);
            return Ok(None);
        }
        thread::sleep(pause);
        let page = https::get(&self.location, path_and_query, &self.access, known.as_ref());
        self.last().next_poll = None;
        let Some(page) = page? else { return Ok(None) };
        let words = page.tag.as_ref().map_or_else(|| "new bytes".to_owned(), Tag::words);
        let bytes = digest(&page.bytes);
        let mut state = State::Page(page.tag, bytes);
        if let (State::Page(_, now), Some(State::Page(tag, read))) = (&state, &self.last().read)
            && now == read
        {
            // The same bytes under another tag are the same page.
            state = State::Page(tag.clone(), *read);
        }
        Ok(self.is_news(&state, Some(bytes)).then(|| format!("{} is at {words}", self.location)))
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source for Store {
    fn name(&self) -> String {
        self.location.to_string()
    }

    fn wait(&self) -> Result<Option<String>, String> {
        let waited = match &self.location.kind {
            Kind::Etcd { key } => self.wait_etcd(key),
            Kind::Web { path_and_query } => self.wait_page(path_and_query),
        };
        waited.map_err(|trouble| trouble.to_string())
    }
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}
