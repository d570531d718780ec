//! A disk in memory: it fills up, fails, and loses power, at any call.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::super::store::Store;
use super::Journal;

/// What happens at a certain call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// This call fails, and no other.
    FailsOnce,
    /// This call fails if it only reads.
    FailsToRead,
    /// From here on every call that writes fails.
    IsFull,
    /// The process is killed before this call.
    Killed,
    /// The process is killed when half of what this call does is done.
    KilledHalfway,
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    /// The journal's file as processes see it, and what of it is on the disk for certain.
    pub(super) bytes: Vec<u8>,
    durable: Vec<u8>,
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    durable_objects: BTreeMap<String, Vec<u8>>,
    pub(super) blobs: BTreeMap<String, Vec<u8>>,
    /// Bytes that fit into the file.
    pub(super) room: Option<usize>,
    /// Objects that fit.
    pub(super) room_for_objects: Option<usize>,
    pub(super) sync_fails: bool,
    pub(super) sync_of_objects_fails: bool,
    pub(super) replaced: usize,
    pub(super) put: usize,
    pub(super) calls: usize,
    pub(super) fate: Option<(usize, Fate)>,
    dead: bool,
    full: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct FakeStore(Arc<Mutex<Disk>>);

impl FakeStore {
    pub(super) fn with<T>(&self, f: impl FnOnce(&mut Disk) -> T) -> T {
        f(&mut self.0.lock().unwrap())
    }

    pub(super) fn journal(&self, keep: usize) -> Journal {
        let bytes = self.with(|disk| disk.bytes.clone());
        Journal::from_store(Box::new(self.clone()), "/state/journal".into(), &bytes, keep).unwrap()
    }

    pub(super) fn is_dead(&self) -> bool {
        self.with(|disk| disk.dead)
    }

    /// The disk as the next process finds it after the process was killed.
    pub(super) fn after_a_kill(&self) -> Self {
        self.with(|disk| Self::holding(disk.bytes.clone(), disk.objects.clone()))
    }

    /// The disk as it may be after the power failed: of what was not synced, anything may be there.
    pub(super) fn after_power_loss(&self, mut choose: impl FnMut(usize) -> usize) -> Self {
        self.with(|disk| {
            let bytes = match disk.bytes.strip_prefix(disk.durable.as_slice()) {
                Some(rest) => {
                    let end = [0, rest.len() / 2, rest.len()][choose(3)];
                    [&disk.durable, &rest[..end]].concat()
                }
                // It was cut.
                None => [&disk.durable, &disk.bytes][choose(2)].clone(),
            };
            let mut objects = disk.durable_objects.clone();
            for (name, there) in &disk.objects {
                if disk.durable_objects.get(name) == Some(there) {
                    continue;
                }
                match choose(4) {
                    0 => drop(objects.remove(name)),
                    1 => drop(objects.insert(name.clone(), vec![0; there.len()])),
                    2 => drop(objects.insert(name.clone(), there[..there.len() / 2].to_vec())),
                    _ => drop(objects.insert(name.clone(), there.clone())),
                }
            }
            // What was removed may be there again.
            objects.retain(|name, _| disk.objects.contains_key(name) || choose(2) == 0);
            Self::holding(bytes, objects)
        })
    }

    fn holding(bytes: Vec<u8>, objects: BTreeMap<String, Vec<u8>>) -> Self {
        let store = Self::default();
        store.with(|disk| {
            disk.durable.clone_from(&bytes);
            disk.durable_objects.clone_from(&objects);
            disk.bytes = bytes;
            disk.objects = objects;
        });
        store
    }
}

impl Disk {
    /// There is room again.
    pub(super) fn mended(&mut self) {
        self.full = false;
        self.fate = None;
    }

    /// Another call. Says whether it is to be done, half of it, or not.
    fn call(&mut self, writes: bool) -> Result<bool, Errno> {
        self.calls += 1;
        if let Some((at, fate)) = self.fate
            && self.calls == at
        {
            match fate {
                Fate::FailsOnce if writes => return Err(Errno::IO),
                Fate::FailsToRead if !writes => return Err(Errno::MFILE),
                Fate::FailsOnce | Fate::FailsToRead => {}
                Fate::IsFull => self.full = true,
                Fate::Killed => self.dead = true,
                Fate::KilledHalfway => {
                    self.dead = true;
                    return Ok(true);
                }
            }
        }
        match (self.dead, self.full && writes) {
            (true, _) => Err(Errno::IO),
            (_, true) => Err(Errno::NOSPC),
            _ => Ok(false),
        }
    }
}

impl Store for FakeStore {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|disk| {
            let halfway = disk.call(true)?;
            let bytes = if halfway { &bytes[..bytes.len() / 2] } else { bytes };
            let room = disk.room.unwrap_or(usize::MAX).saturating_sub(disk.bytes.len());
            disk.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
            if bytes.len() > room { Err(Errno::NOSPC.into()) } else { Ok(()) }
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|disk| {
            let halfway = disk.call(true)?;
            if disk.sync_fails {
                return Err(Errno::IO.into());
            }
            if !halfway {
                disk.durable.clone_from(&disk.bytes);
            }
            Ok(())
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.with(|disk| {
            if !disk.call(true)? {
                disk.bytes.truncate(usize::try_from(length).unwrap());
            }
            Ok(())
        })
    }

    fn reserve(&mut self, length: u64, bytes: u64) -> io::Result<()> {
        self.with(|disk| {
            disk.call(true)?;
            let fits = disk.room.is_none_or(|room| length + bytes <= u64::try_from(room).unwrap());
            if fits { Ok(()) } else { Err(Errno::NOSPC.into()) }
        })
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.with(|disk| {
            let halfway = disk.call(true)?;
            if disk.room.is_some_and(|room| bytes.len() > room) {
                return Err(Errno::NOSPC.into());
            }
            if !halfway {
                disk.bytes = bytes.to_vec();
                disk.durable = bytes.to_vec();
            }
            disk.sync_fails = false;
            disk.replaced += 1;
            Ok(())
        })
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.with(|disk| {
            if disk.call(true)? {
                // Its temporary file is there, and it is not.
                disk.objects.insert(".new".to_owned(), bytes[..bytes.len() / 2].to_vec());
                return Err(Errno::IO.into());
            }
            if disk.room_for_objects.is_some_and(|room| disk.objects.len() >= room) {
                return Err(Errno::NOSPC.into());
            }
            disk.put += 1;
            disk.objects.insert(name.to_owned(), bytes.to_vec());
            Ok(())
        })
    }

    fn length(&self, name: &str) -> Option<u64> {
        self.with(|disk| disk.objects.get(name).map(|bytes| bytes.len() as u64))
    }

    fn get(&self, name: &str) -> io::Result<Vec<u8>> {
        self.with(|disk| {
            disk.call(false)?;
            disk.objects.get(name).cloned().ok_or_else(|| Errno::NOENT.into())
        })
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.with(|disk| {
            if !disk.call(false)? {
                disk.objects.remove(name);
            }
            Ok(())
        })
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.with(|disk| Ok(disk.objects.keys().cloned().collect()))
    }

    fn sync_objects(&mut self, _all: bool) -> io::Result<()> {
        self.with(|disk| {
            let halfway = disk.call(true)?;
            if std::mem::take(&mut disk.sync_of_objects_fails) {
                return Err(Errno::IO.into());
            }
            if !halfway {
                disk.durable_objects.clone_from(&disk.objects);
            }
            Ok(())
        })
    }

    fn blob(&self, name: &str) -> io::Result<Vec<u8>> {
        self.with(|disk| disk.blobs.get(name).cloned()).ok_or_else(|| Errno::NOENT.into())
    }

    fn keep_only_blobs(&mut self, names: &[&str]) -> io::Result<()> {
        self.with(|disk| disk.blobs.retain(|name, _| names.contains(&name.as_str())));
        Ok(())
    }
}
