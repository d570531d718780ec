//! The kernel's news of directories (inotify(7)): only of the names that matter, and only of what replaces a file.
//!
//! A file that is being written says nothing before it is closed, and what is read or opened says nothing at all: a log
//! or a directory full of pages beside a certificate costs no wake-up.

use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::places::Places;

/// What of a directory is news.
const NEWS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Room for the events of one read, in bytes; the longest name takes 256 of them.
const EVENTS: usize = 16 * 1024;

/// A set of directories that is watched.
#[derive(Debug)]
pub(super) struct Kernel {
    /// `None` if the system has none to give.
    events: Option<OwnedFd>,
    /// By the kernel's number for a directory.
    names: HashMap<i32, BTreeSet<OsString>>,
}

impl Kernel {
    /// A set without directories; with the reason if the kernel will say nothing.
    pub(super) fn new() -> (Self, Option<String>) {
        match inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK) {
            Ok(events) => (Self { events: Some(events), names: HashMap::new() }, None),
            Err(errno) => {
                let limit = limit("max_user_instances", errno == Errno::MFILE);
                let why = format!("the kernel's news of files cannot be had: {}{limit}", message(errno));
                (Self { events: None, names: HashMap::new() }, Some(why))
            }
        }
    }

    /// Wakes up when there may be news.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.events.as_ref().map(|events| events.as_fd())
    }

    /// Watches these directories, and no others. With the reason if not all of them can be.
    ///
    /// A directory that has been replaced by another one under the same name is watched anew; one that is not
    /// there is no reason: its parent will say when it comes.
    pub(super) fn watch(&mut self, places: &Places) -> Option<String> {
        let events = self.events.as_ref()?;
        let mut names: HashMap<i32, BTreeSet<OsString>> = HashMap::new();
        let mut trouble = None;
        for (directory, wanted) in places {
            match inotify::add_watch(events, directory, NEWS) {
                Ok(number) => names.entry(number).or_default().extend(wanted.iter().cloned()),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => {
                    let limit = limit("max_user_watches", errno == Errno::NOSPC);
                    trouble.get_or_insert_with(|| {
                        format!("{} cannot be watched: {}{limit}", directory.display(), message(errno))
                    });
                }
            }
        }
        for gone in self.names.keys().filter(|number| !names.contains_key(number)) {
            // The kernel has let go of it already if the directory is gone.
            let _ = inotify::remove_watch(events, *gone);
        }
        self.names = names;
        trouble
    }

    /// Takes all news, and says whether any of it matters.
    pub(super) fn has_news(&self) -> bool {
        let Some(events) = &self.events else { return false };
        let mut buffer = [MaybeUninit::uninit(); EVENTS];
        let mut reader = Reader::new(events, &mut buffer);
        let mut matters = false;
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
                    matters |= self.matters(event.wd(), event.events(), name);
                }
                Err(Errno::INTR) => {}
                // Nothing more for now; anything else would say so at the next wait again.
                Err(_) => return matters,
            }
        }
    }

    fn matters(&self, number: i32, what: ReadFlags, name: Option<&OsStr>) -> bool {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            return true;
        }
        let Some(names) = self.names.get(&number) else { return false };
        // Without a name it is about the directory itself.
        name.is_none_or(|name| names.contains(name))
    }
}

/// `; fs.inotify.max_user_watches is 8192`.
fn limit(name: &str, is_reached: bool) -> String {
    if !is_reached {
        return String::new();
    }
    let path = format!("/proc/sys/fs/inotify/{name}");
    let value = std::fs::read_to_string(path).unwrap_or_default();
    format!("; the limit fs.inotify.{name} is {}", value.trim())
}

fn message(errno: Errno) -> std::io::Error {
    errno.into()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::io::Write as _;
    use std::path::Path;

    use rustix::event::{PollFd, PollFlags, Timespec};

    use super::*;

    fn watching(directory: &Path, names: &[&str]) -> Kernel {
        let (mut kernel, trouble) = Kernel::new();
        assert_eq!(trouble, None);
        let names = names.iter().map(OsString::from).collect();
        assert_eq!(kernel.watch(&Places::from([(directory.to_owned(), names)])), None);
        kernel
    }

    /// Waits until the kernel has something to say, which it must.
    fn wait(kernel: &Kernel) -> bool {
        let limit = Timespec { tv_sec: 30, tv_nsec: 0 };
        let descriptor = kernel.descriptor().unwrap();
        let ready =
            rustix::event::poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&limit)).unwrap();
        assert_eq!(ready, 1, "the kernel says nothing");
        kernel.has_news()
    }

    #[test]
    fn only_names_that_matter_are_news() {
        let directory = tempfile::tempdir().unwrap();
        let kernel = watching(directory.path(), &["a"]);
        fs::write(directory.path().join("b"), "").unwrap();
        assert!(!wait(&kernel));
        fs::write(directory.path().join("a"), "").unwrap();
        assert!(wait(&kernel));
        assert!(!kernel.has_news());
        fs::rename(directory.path().join("b"), directory.path().join("a")).unwrap();
        assert!(wait(&kernel));
    }

    #[test]
    fn lines_for_a_log_that_stays_open_and_readers_wake_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut log = File::create(&path).unwrap();
        let kernel = watching(directory.path(), &["a", "log"]);
        for line in 0..1_000 {
            writeln!(log, "{line}").unwrap();
        }
        fs::read(&path).unwrap();
        let descriptor = kernel.descriptor().unwrap();
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let ready =
            rustix::event::poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&at_once)).unwrap();
        assert_eq!(ready, 0);
    }

    #[test]
    fn a_directory_that_was_replaced_is_watched_anew_and_the_old_one_no_more() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("d");
        fs::create_dir(&directory).unwrap();
        let mut kernel = watching(&directory, &["a"]);
        fs::rename(&directory, root.path().join("old")).unwrap();
        fs::create_dir(&directory).unwrap();
        assert!(wait(&kernel), "it has moved away");
        let places = Places::from([(directory.clone(), BTreeSet::from([OsString::from("a")]))]);
        assert_eq!(kernel.watch(&places), None);
        let _ = kernel.has_news();
        fs::write(root.path().join("old/a"), "").unwrap();
        assert!(!kernel.has_news());
        fs::write(directory.join("a"), "").unwrap();
        assert!(wait(&kernel));
    }
}
