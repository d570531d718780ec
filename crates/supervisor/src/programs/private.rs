//! The address that a copy has for itself, and the place where such addresses are.
//!
//! ```text
//!   <runtime>/<server>.programs/            0711
//!      web-7.sock       a socket that is bound here and passed (private = "socket")
//!      web-7/app.sock   a path where the program binds (private = "path"); the directory is its user's alone
//!      web-7.notify     its NOTIFY_SOCKET
//!      web-7.mark       its mark, from before it is started: whoever comes next knows what to look for, whenever this life ends
//!      run~….mark       the mark of a command that runs
//!      serves~….mark    the mark of a process that serves connections (`accept`), and all that is to be known to find it
//!   127.0.0.1:PORT      a free port where the program binds (private = "port")
//! ```
//!
//! What is made for a copy is removed when nothing of the copy is left, by the supervisor that then owns it.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::protocol::{Address, Private, User};
use crate::sockets::{self, SocketFile};

/// Connections that the kernel keeps at a private socket until the copy accepts them.
const BACKLOG: u32 = 4096;
/// Characters of a program's name in a path: the whole of it must not be longer than `sun_path` (unix(7)).
const MAX_NAME: usize = 24;
/// What the name of a file with a mark ends with.
const MARK: &str = ".mark";
/// What the name of such a file begins with if it is that of a process that serves connections.
const SERVES: &str = "serves~";
/// A file that is longer is none of ours.
const MAX_MARK_BYTES: u64 = 64 * 1024;
/// Ports that are tried until one is free that no other copy was given.
const PORT_TRIES: usize = 32;

/// Where addresses of copies are made.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// For programs that run as the supervisor does.
    own: PathBuf,
    /// For those of other users, where `own` cannot be reached by them.
    others: PathBuf,
}

/// The names of one copy's files there.
#[derive(Debug, Clone)]
pub(super) struct Files {
    socket: PathBuf,
    directory: PathBuf,
    mark: PathBuf,
    /// The copy's `NOTIFY_SOCKET`.
    pub(super) notify: PathBuf,
}

impl Place {
    /// For the server of this name, whose control socket is in `runtime`.
    pub(super) fn new(runtime: &Path, server: &str) -> Self {
        let own = runtime.join(format!("{server}.programs"));
        let digest = blake3::hash(own.as_os_str().as_encoded_bytes()).to_hex();
        let id: String = digest.as_str().chars().take(8).collect();
        let others = match is_reachable(runtime) {
            true => own.clone(),
            false => Path::new("/run").join(format!("{server}-{id}.programs")),
        };
        Place { own, others }
    }

    /// The files of a copy, in a directory that is made if it is not there.
    pub(super) fn files(&self, program: &str, key: u64, user: Option<&User>) -> Result<Files, String> {
        let directory = if user.is_some() { &self.others } else { &self.own };
        make_directory(directory, 0o711)
            .map_err(|error| format!("the directory {} cannot be made: {error}", directory.display()))?;
        let name = file_name(program);
        let file = |end: &str| directory.join(format!("{name}-{key}{end}"));
        Ok(Files { socket: file(".sock"), directory: file(""), notify: file(".notify"), mark: file(MARK) })
    }

    /// The marks of copies that were begun and of which something may be left, whatever else is known of them.
    pub(super) fn marks(&self) -> BTreeSet<String> {
        self.mark_files().into_iter().filter_map(|path| read_mark(&path)).collect()
    }

    /// Nothing is left of the copies and commands that have these marks, and nothing is to be left that was made for them.
    pub(super) fn forget_marks(&self, over: &BTreeSet<String>) {
        for path in self.mark_files() {
            if read_mark(&path).is_some_and(|mark| over.contains(&mark)) {
                for end in [".sock", ".notify"] {
                    let _ = fs::remove_file(with_end(&path, end));
                }
                let _ = fs::remove_dir_all(with_end(&path, ""));
                let _ = fs::remove_file(path);
            }
        }
    }

    /// Writes down the mark of a command, as long as it runs.
    pub(super) fn note_command(&self, mark: &str) -> NotedMark {
        let path = self.own.join(format!("run~{}{MARK}", id_of(mark)));
        if let Err(error) = make_directory(&self.own, 0o711).and_then(|()| fs::write(&path, mark)) {
            say_unwritten(&path, mark, &error);
        }
        NotedMark(path)
    }

    /// Writes down a process that serves connections, at first and once it runs: its mark in the first line, what is known of it
    /// in the last. One line is added to the other, so that the mark is there whenever this ends.
    pub(super) fn note_process(&self, mark: &str, known: &str) {
        let path = self.process_file(mark);
        let note = || -> io::Result<()> {
            let mut file = match File::options().append(true).open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    make_directory(&self.own, 0o711)?;
                    let mut file = File::create(&path)?;
                    file.write_all(format!("{mark}\n").as_bytes())?;
                    file
                }
                Err(error) => return Err(error),
            };
            file.write_all(format!("{known}\n").as_bytes())
        };
        if let Err(error) = note() {
            say_unwritten(&path, mark, &error);
        }
    }

    /// Nothing is left of it.
    pub(super) fn forget_process(&self, mark: &str) {
        let _ = fs::remove_file(self.process_file(mark));
    }

    /// What is known of processes that serve connections and of which something may be left: the lines of each.
    pub(super) fn noted_processes(&self) -> Vec<String> {
        let is_one = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(SERVES.as_bytes()))
        };
        let files = self.mark_files().into_iter().filter(is_one);
        files.filter_map(|path| read_file(&path)).filter(|text| !text.is_empty()).collect()
    }

    fn process_file(&self, mark: &str) -> PathBuf {
        self.own.join(format!("{SERVES}{}{MARK}", id_of(mark)))
    }

    /// Nothing is left of this copy.
    pub(super) fn forget_copy(&self, program: &str, key: u64) {
        for directory in [&self.own, &self.others] {
            let _ = fs::remove_file(directory.join(format!("{}-{key}{MARK}", file_name(program))));
        }
    }

    fn mark_files(&self) -> BTreeSet<PathBuf> {
        let entries =
            [&self.own, &self.others].into_iter().filter_map(|directory| fs::read_dir(directory).ok());
        let paths = entries.flatten().flatten().map(|entry| entry.path());
        paths.filter(|path| path.as_os_str().as_encoded_bytes().ends_with(MARK.as_bytes())).collect()
    }

    /// Removes what an earlier life has left, of which nothing runs any more but the processes with these marks.
    pub(super) fn clean(&self, running: &BTreeSet<String>) {
        let kept: BTreeSet<PathBuf> = running.iter().map(|mark| self.process_file(mark)).collect();
        for directory in [&self.own, &self.others] {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if kept.contains(&path) {
                    continue;
                }
                let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            }
        }
    }

    /// Removes the directories themselves, if nothing is in them.
    pub(super) fn remove(&self) {
        for directory in [&self.own, &self.others] {
            let _ = fs::remove_dir(directory);
        }
    }
}

impl Files {
    /// Writes down which mark the copy has. It need not outlive the machine: the copy does not, either.
    pub(super) fn note_mark(&self, mark: &str) {
        if let Err(error) = fs::write(&self.mark, mark) {
            say_unwritten(&self.mark, mark, &error);
        }
    }

    /// It was not started.
    pub(super) fn forget_mark(&self) {
        let _ = fs::remove_file(&self.mark);
    }
}

/// The mark of a command, written down until this is dropped.
#[derive(Debug)]
pub(super) struct NotedMark(PathBuf);

impl Drop for NotedMark {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn say_unwritten(path: &Path, mark: &str, error: &io::Error) {
    tracing::warn!(
        "{} cannot be written: {error}; if this supervisor dies now, {mark} may run on",
        path.display()
    );
}

/// What else there is of the copy to which the file with a mark belongs.
fn with_end(mark: &Path, end: &str) -> PathBuf {
    let name = mark.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let stem = name.strip_suffix(MARK).filter(|stem| !stem.is_empty()).unwrap_or(name);
    mark.with_file_name(format!("{stem}{end}"))
}

/// A program's name in names of files: no two programs have the same.
fn file_name(program: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if program.len() <= MAX_NAME && program.chars().all(fits) {
        return program.to_owned();
    }
    let digest = blake3::hash(program.as_bytes()).to_hex();
    let readable = program.chars().map(|c| if fits(c) { c } else { '_' });
    readable.take(MAX_NAME - 9).chain(['-']).chain(digest.chars().take(8)).collect()
}

/// What of a mark no other has, as it may stand in the name of a file.
fn id_of(mark: &str) -> String {
    mark.rsplit('-').next().unwrap_or_default().chars().take(MAX_NAME).collect()
}

fn read_mark(path: &Path) -> Option<String> {
    // One that was not written to its end.
    read_file(path)?.lines().next().filter(|mark| !mark.is_empty()).map(str::to_owned)
}

fn read_file(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(MAX_MARK_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Whether other users can get to what is below.
fn is_reachable(directory: &Path) -> bool {
    let is_open =
        |path: &Path| fs::metadata(path).map_or(true, |meta| meta.permissions().mode() & 0o001 != 0);
    directory.ancestors().all(is_open)
}

/// Makes it, and those above it, and gives it this mode whatever the umask is.
fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().recursive(true).mode(mode).create(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        Err(error) => return Err(error),
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Gives a file to the user as whom the program runs.
pub(super) fn give(path: &Path, user: Option<&User>) -> Result<(), String> {
    let Some(user) = user else { return Ok(()) };
    chown(path, Some(user.uid), Some(user.gid))
        .map_err(|error| format!("{} cannot be given to user {}: {error}", path.display(), user.uid))
}

/// An address that one copy has for itself.
#[derive(Debug)]
pub(super) struct Own {
    /// Where requests are sent.
    pub(super) address: Address,
    /// The socket, if it is passed.
    pub(super) socket: Option<Arc<OwnedFd>>,
    file: Option<SocketFile>,
    directory: Option<PathBuf>,
}

/// It, as it is written down; its socket goes with it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct SavedOwn {
    /// The address.
    pub(super) address: Address,
    /// The socket's place among the descriptors, if it is passed.
    pub(super) socket: Option<usize>,
    /// The directory that was made for it.
    pub(super) directory: Option<PathBuf>,
}

impl Own {
    /// Makes one. `taken` are the ports that other copies were given. May block on the disk.
    pub(super) fn make(
        kind: Private,
        files: &Files,
        user: Option<&User>,
        taken: &[u16],
    ) -> Result<Self, String> {
        match kind {
            Private::Socket => {
                let address = Address::Unix { path: files.socket.clone(), mode: 0o600 };
                let (socket, file) =
                    sockets::listen_unix(&files.socket, 0o600, BACKLOG).map_err(|unbound| unbound.detail)?;
                Ok(Own { address, socket: Some(Arc::new(socket)), file: Some(file), directory: None })
            }
            Private::Path => {
                let directory = files.directory.clone();
                make_directory(&directory, 0o700).map_err(|error| {
                    format!("the directory {} cannot be made: {error}", directory.display())
                })?;
                give(&directory, user)?;
                let address = Address::Unix { path: directory.join("app.sock"), mode: 0o600 };
                Ok(Own { address, socket: None, file: None, directory: Some(directory) })
            }
            Private::Port => {
                let port = free_port(taken).map_err(|error| format!("no free port was found: {error}"))?;
                let address = Address::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                Ok(Own { address, socket: None, file: None, directory: None })
            }
        }
    }

    /// Its port, if it has one.
    pub(super) fn port(&self) -> Option<u16> {
        match &self.address {
            Address::Tcp(address) => Some(address.port()),
            _ => None,
        }
    }

    /// What is written down of it; `socket` is the place of its socket among the descriptors.
    pub(super) fn save(&self, socket: Option<usize>) -> SavedOwn {
        SavedOwn { address: self.address.clone(), socket, directory: self.directory.clone() }
    }

    /// One that was written down.
    pub(super) fn restore(saved: SavedOwn, socket: Option<Arc<OwnedFd>>) -> Self {
        let file = match (&saved.address, &socket) {
            (Address::Unix { path, .. }, Some(_)) => SocketFile::of(path).ok(),
            _ => None,
        };
        Own { address: saved.address, socket, file, directory: saved.directory }
    }

    /// Nothing of the copy is left: its files are removed.
    pub(super) fn remove(&self) {
        if let Some(file) = &self.file {
            file.remove();
        }
        if let Some(directory) = &self.directory {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

/// A loopback port on which nobody listens. Somebody else could still take it before the copy does: then the copy fails to
/// bind, and is not ready.
fn free_port(taken: &[u16]) -> io::Result<u16> {
    for _ in 0..PORT_TRIES {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if !taken.contains(&port) {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_of_its_own_takes_connections_at_once_and_is_removed_with_the_copy() {
        let runtime = tempfile::tempdir().unwrap();
        let place = Place::new(runtime.path(), "test");
        let files = place.files("web", 7, None).unwrap();
        let own = Own::make(Private::Socket, &files, None, &[]).unwrap();
        let Address::Unix { path, .. } = own.address.clone() else { panic!("{own:?}") };
        UnixStream::connect(&path).unwrap();
        own.remove();
        assert!(!path.exists());
        place.remove();
        assert!(!place.own.exists());
    }

    #[test]
    fn a_directory_for_its_path_is_nobody_elses_and_goes_with_all_that_is_in_it() {
        let runtime = tempfile::tempdir().unwrap();
        let files = Place::new(runtime.path(), "test").files("we/b", 1, None).unwrap();
        let own = Own::make(Private::Path, &files, None, &[]).unwrap();
        let Address::Unix { path, .. } = &own.address else { panic!("{own:?}") };
        let directory = path.parent().unwrap();
        assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o777, 0o700);
        fs::write(path, "left").unwrap();
        own.remove();
        assert!(!directory.exists());
    }

    #[test]
    fn two_programs_never_have_the_same_files() {
        let runtime = tempfile::tempdir().unwrap();
        let place = Place::new(runtime.path(), "test");
        let names =
            ["payments-frontend-service-blue", "payments-frontend-service-green", "a b", "a_b", "web"];
        let sockets: BTreeSet<PathBuf> =
            names.iter().map(|name| place.files(name, 1, None).unwrap().socket).collect();
        assert_eq!(sockets.len(), names.len(), "{sockets:?}");
        assert!(names.iter().all(|name| file_name(name).len() <= MAX_NAME));
    }

    #[test]
    fn marks_are_there_until_they_are_forgotten() {
        let runtime = tempfile::tempdir().unwrap();
        let place = Place::new(runtime.path(), "test");
        for (key, mark) in [(1, "web/1-a"), (2, "web/1-b"), (3, "web/1-c")] {
            place.files("web", key, None).unwrap().note_mark(mark);
        }
        place.forget_copy("web", 1);
        place.forget_marks(&["web/1-c".to_owned()].into());
        assert_eq!(place.marks(), ["web/1-b".to_owned()].into());
        let noted = place.note_command("web/1-00ff");
        assert_eq!(place.marks().len(), 2);
        drop(noted);
        assert_eq!(place.marks().len(), 1);
    }

    #[test]
    fn with_a_mark_goes_all_that_was_made_for_the_copy_and_nothing_of_another() {
        let runtime = tempfile::tempdir().unwrap();
        let place = Place::new(runtime.path(), "test");
        let make = |key: u64, kind: Private| {
            let files = place.files("web", key, None).unwrap();
            files.note_mark(&format!("web/1-{key}"));
            fs::write(&files.notify, "").unwrap();
            Own::make(kind, &files, None, &[]).unwrap()
        };
        let _made = [make(1, Private::Socket), make(2, Private::Path), make(11, Private::Socket)];
        place.forget_marks(&["web/1-1".to_owned(), "web/1-2".to_owned()].into());
        let entries = fs::read_dir(&place.own).unwrap().flatten();
        let left: BTreeSet<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        assert_eq!(left, ["web-11.mark", "web-11.notify", "web-11.sock"].map(str::to_owned).into());
    }

    #[test]
    fn two_copies_never_get_the_same_port() {
        let first = free_port(&[]).unwrap();
        assert_ne!(free_port(&[first]).unwrap(), first);
    }
}
