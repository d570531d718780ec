//! Which binary may be run in an upgrade: opened once, looked at, and kept by its descriptor.
//!
//! ```text
//!   path ─▶ open (once) ─▶ a whole ELF program of this machine ─▶ rules ─▶ digest ─▶ signature ─▶ Admitted
//!                │                     │                            │         │          │
//!                └──── Broken ◀────────┘                            └─────────┴──────────┴──▶ Refused
//! ```
//!
//! A file that cannot be run is *broken*: the candidate is not ready. One that could be run and may not is *refused*,
//! and the refusal names the rule. Whatever becomes of the path afterwards, what was admitted is what is started.
//!
//! | rule | always | if configured |
//! |---|---|---|
//! | `owner` | root, or the user that runs the server | exactly the configured one |
//! | `mode` | nobody but the owner may write it; no set-user-ID or set-group-ID bit | |
//! | `directory` | nobody but root, the user that runs the server and the configured owner may put a file in its place, or a directory above | it lies in an allowed directory or below |
//! | `sha256` | | the configured digest; and the one that the operator asked for |
//! | `signature` | | `PATH.minisig` is its signature by the configured key |
//!
//! Everything is asked of the open descriptor, and the path that counts is the one that the kernel says it was found
//! under, links resolved: so nothing can be put in its place between one look and the next.

mod elf;
mod keeping;
mod signature;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use handover_api::Problem;
use handover_handoff::process::Executable;
use rustix::fs::OFlags;

use crate::protocol::UpgradeRules;
use elf::{HEADER_BYTES, Header};
pub(crate) use keeping::keep;
use signature::Detached;

/// The largest binary: several times the largest that anybody is known to run.
const MAX_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 1024 * 1024;
/// The longest table of program headers that is looked at: hundreds of times what programs have.
const MAX_TABLE_BYTES: u64 = 1024 * 1024;

/// A binary that may be run.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    /// The file, kept open.
    pub(crate) executable: Arc<Executable>,
    /// Where it was found, absolute, as it was named.
    pub(crate) path: PathBuf,
    /// SHA-256 of its bytes, 64 lower-case hexadecimal digits.
    pub(crate) sha256: String,
    stamp: Stamp,
}

impl Admitted {
    /// Whether the file still is as it was when it was looked at; to be asked once more before it is started. Its owner
    /// could have written to it.
    ///
    /// # Errors
    /// It was written to.
    pub(crate) fn check_unchanged(&self) -> Result<(), NotAdmitted> {
        let now = rustix::fs::fstat(&*self.executable).map(|now| Stamp::of(&now));
        if now == Ok(self.stamp) {
            return Ok(());
        }
        let found = "was written to after it was looked at".to_owned();
        Err(NotAdmitted::Broken { path: self.path.clone(), found })
    }
}

/// What changes when a file is written to, and not when it gets another name or loses its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: i64,
    mode: u32,
    owner: u32,
    written: (i64, u64),
}

impl Stamp {
    fn of(stat: &rustix::fs::Stat) -> Self {
        let written = (stat.st_mtime, stat.st_mtime_nsec);
        Stamp { length: stat.st_size, mode: stat.st_mode, owner: stat.st_uid, written }
    }
}

/// A rule that a binary can violate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    Owner,
    Mode,
    Directory,
    Sha256,
    Signature,
}

/// As it is called in the configuration and in the documents.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Owner => "owner",
            Rule::Mode => "mode",
            Rule::Directory => "directory",
            Rule::Sha256 => "sha256",
            Rule::Signature => "signature",
        })
    }
}

/// Why a binary is not run. The sentences end without a full stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// It may not be: a rule says so.
    #[error("{} may not be run: {found} (rule: {rule})", path.display())]
    Refused {
        /// Which rule.
        rule: Rule,
        /// Which file.
        path: PathBuf,
        /// What was found.
        found: String,
        /// What to do.
        help: String,
    },
    /// It cannot be: it is missing, no program, not whole.
    #[error("{} {found}", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What was found.
        found: String,
    },
}

impl NotAdmitted {
    /// As the operation's error: the file is its place, and is not named again.
    pub(crate) fn problem(&self) -> Problem {
        let (path, detail, help) = match self {
            NotAdmitted::Refused { rule, path, found, help } => {
                (path, format!("the rule '{rule}' forbids it: {found}"), Some(help.clone()))
            }
            NotAdmitted::Broken { path, found } => (path, found.clone(), None),
        };
        Problem { help, ..Problem::new(detail).in_file(path.display().to_string()) }
    }
}

/// Looks whether the file at `path` may be run in an upgrade: by the `rules` of the configuration that serves, by the
/// digest that the operator asked for, and by what always holds. Blocks for as long as reading the file takes.
///
/// # Errors
/// Which rule it violates, or why it cannot be run.
pub(crate) fn admit(
    path: &Path,
    rules: &UpgradeRules,
    sha256: Option<&str>,
) -> Result<Admitted, NotAdmitted> {
    let examined = Examined::open(path)?;
    examined.check_program()?;
    examined.check_owner(rules.owner)?;
    examined.check_mode()?;
    examined.check_directory(&rules.directories, rules.owner)?;
    let signature = match &rules.public_key {
        None => None,
        Some(key) => Some(Detached::of(&examined.path, key).map_err(|why| examined.unsigned(&why))?),
    };
    let digest = examined.digest(signature.as_ref())?;
    let asked = sha256.map(|wanted| (wanted, "asked for"));
    let configured = rules.sha256.as_deref().map(|wanted| (wanted, "configured"));
    for (wanted, by) in asked.into_iter().chain(configured) {
        examined.check_digest(&digest, wanted, by)?;
    }
    Ok(examined.admitted(digest))
}

/// The same for a binary that was kept in the state directory when it served: nobody but the server's own user can have
/// put it there, so that only its digest and what always holds is looked at.
///
/// # Errors
/// As [`admit`].
pub(crate) fn admit_kept(state: &Path, sha256: &str) -> Result<Admitted, NotAdmitted> {
    admit(&keeping::path_of(state, sha256), &UpgradeRules::default(), Some(sha256))
}

/// Whether there is a copy of the binary with this digest. What it is will be looked at when it is to be run.
pub(crate) fn is_kept(state: &Path, sha256: &str) -> bool {
    keeping::path_of(state, sha256).is_file()
}

/// SHA-256 of the file, 64 lower-case hexadecimal digits. Blocks for as long as reading it takes.
///
/// # Errors
/// It may be executed but not read, or reading failed.
pub(crate) fn sha256_of(executable: &Executable) -> io::Result<String> {
    let mut context = Context::new(&SHA256);
    read_all(&executable.read()?, |bytes| context.update(bytes))?;
    Ok(hexadecimal(context.finish().as_ref()))
}

/// Where this program was started from: an absolute path that leads to its file now. As it was named if that can be found
/// out, so that a link which is set to another version later is followed; else where the kernel says that it is.
///
/// # Errors
/// `/proc` is not mounted.
pub(crate) fn started_from() -> io::Result<PathBuf> {
    let running = std::fs::metadata("/proc/self/exe")?;
    let leads_here = |path: &PathBuf| {
        std::fs::metadata(path)
            .is_ok_and(|there| (there.dev(), there.ino()) == (running.dev(), running.ino()))
    };
    let named = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let candidates: Vec<PathBuf> = match named.components().count() {
        0 => Vec::new(),
        1 if !named.as_os_str().as_encoded_bytes().contains(&b'/') => {
            std::env::split_paths(&directories).map(|directory| directory.join(&named)).collect()
        }
        _ => vec![named],
    };
    let absolute = candidates.iter().filter_map(|path| std::path::absolute(path).ok());
    match absolute.into_iter().find(leads_here) {
        Some(path) => Ok(path),
        None => Ok(without_mark(&std::fs::read_link("/proc/self/exe")?)),
    }
}

/// A path as the kernel shows it, without its mark for one that leads nowhere any more.
fn without_mark(path: &Path) -> PathBuf {
    let text = path.as_os_str().as_encoded_bytes();
    match text.strip_suffix(b" (deleted)") {
        Some(text) => PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(text)),
        None => path.to_owned(),
    }
}

/// Opens a file for reading, without waiting for a writer if it is a pipe.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "is no regular file"))
}

/// Reads a file from its start to its end, without moving its position. Gives its length.
fn read_all(file: &File, mut take: impl FnMut(&[u8])) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = 0_u64;
    loop {
        match file.read_at(&mut chunk, at) {
            Ok(0) => return Ok(at),
            Ok(count) => {
                take(chunk.get(..count).unwrap_or_default());
                at = at.saturating_add(count as u64);
                if at > MAX_BYTES {
                    return Err(io::Error::new(io::ErrorKind::FileTooLarge, "is longer than any binary"));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file that is being looked at.
struct Examined {
    file: File,
    /// As it was named, absolute.
    path: PathBuf,
    /// Where it is, links resolved.
    real: PathBuf,
    meta: Metadata,
    stamp: Stamp,
}

impl Examined {
    fn open(path: &Path) -> Result<Self, NotAdmitted> {
        let broken = |found: String| NotAdmitted::Broken { path: path.to_owned(), found };
        let absolute = std::path::absolute(path).map_err(|error| broken(format!("is no path: {error}")))?;
        let file = open(&absolute).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => broken("does not exist".to_owned()),
            io::ErrorKind::InvalidInput => broken("is no regular file".to_owned()),
            _ => broken(format!("cannot be opened for reading: {error}")),
        })?;
        let unknown = |error: io::Error| broken(format!("cannot be looked at: {error}"));
        let meta = file.metadata().map_err(unknown)?;
        let stamp = Stamp::of(&rustix::fs::fstat(&file).map_err(|errno| unknown(errno.into()))?);
        let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(unknown)?;
        let there = std::fs::symlink_metadata(&real);
        if !there.is_ok_and(|there| (there.dev(), there.ino()) == (meta.dev(), meta.ino())) {
            return Err(broken("was replaced while it was looked at".to_owned()));
        }
        Ok(Self { file, path: absolute, real, meta, stamp })
    }

    fn broken(&self, found: impl Into<String>) -> NotAdmitted {
        NotAdmitted::Broken { path: self.path.clone(), found: found.into() }
    }

    fn refused(&self, rule: Rule, found: impl Into<String>, help: impl Into<String>) -> NotAdmitted {
        NotAdmitted::Refused { rule, path: self.path.clone(), found: found.into(), help: help.into() }
    }

    fn unsigned(&self, why: &signature::NotSigned) -> NotAdmitted {
        let help = format!(
            "sign it with 'minisign -Sm {}', with the key whose public half the configuration has",
            self.path.display()
        );
        self.refused(Rule::Signature, why.to_string(), help)
    }

    /// Whether it can be run here at all.
    fn check_program(&self) -> Result<(), NotAdmitted> {
        let length = self.meta.len();
        let unreadable = |error: io::Error| self.broken(format!("cannot be read: {error}"));
        if self.meta.mode() & 0o111 == 0 {
            return Err(self.broken("is not executable: its mode has no x"));
        }
        let head = bytes_at(&self.file, 0, HEADER_BYTES).map_err(unreadable)?;
        let header = Header::parse(&head, length).map_err(|fault| self.broken(fault.to_string()))?;
        let ours = own_machine().map_err(|error| {
            self.broken(format!("cannot be compared with the program that runs: {error}"))
        })?;
        header.check(ours, length).map_err(|fault| self.broken(fault.to_string()))?;
        let table = usize::try_from(header.programs.bytes().min(MAX_TABLE_BYTES)).unwrap_or(0);
        let table = bytes_at(&self.file, header.programs.offset, table).map_err(unreadable)?;
        header.check_parts(&table, length).map_err(|fault| self.broken(fault.to_string()))
    }

    fn check_owner(&self, configured: Option<u32>) -> Result<(), NotAdmitted> {
        let (owner, me) = (self.meta.uid(), rustix::process::geteuid().as_raw());
        let (fits, wanted) = match configured {
            Some(wanted) => (owner == wanted, format!("uid {wanted}")),
            None if me == 0 => (owner == 0, "root".to_owned()),
            None => (owner == 0 || owner == me, format!("root or uid {me}, which runs this server")),
        };
        if fits {
            return Ok(());
        }
        let found = format!("it belongs to uid {owner}, and must belong to {wanted}");
        let help = "'chown' it, or install it anew as its owner".to_owned();
        Err(self.refused(Rule::Owner, found, help))
    }

    fn check_mode(&self) -> Result<(), NotAdmitted> {
        let mode = self.meta.mode() & 0o7777;
        let path = self.path.display();
        if mode & 0o022 != 0 {
            let found = format!("others than its owner can write it (mode {mode:04o})");
            return Err(self.refused(Rule::Mode, found, format!("'chmod go-w {path}'")));
        }
        if mode & 0o6000 != 0 {
            let found = format!("it would run as somebody else (mode {mode:04o})");
            return Err(self.refused(Rule::Mode, found, format!("'chmod ug-s {path}'")));
        }
        Ok(())
    }

    fn check_directory(&self, allowed: &[PathBuf], owner: Option<u32>) -> Result<(), NotAdmitted> {
        // Whoever may put another directory in the place of one of them may put another file in the place of this one.
        for directory in self.real.ancestors().skip(1) {
            self.check_place(directory, owner)?;
        }
        let shown = self.real.parent().unwrap_or(Path::new("/")).display();
        let is_inside = |allowed: &PathBuf| {
            // One that does not exist allows nothing.
            std::fs::canonicalize(allowed).is_ok_and(|allowed| self.real.starts_with(allowed))
        };
        if allowed.is_empty() || allowed.iter().any(is_inside) {
            return Ok(());
        }
        let names: Vec<String> = allowed.iter().map(|one| one.display().to_string()).collect();
        let found = format!("it is in {shown}, and only what is in {} may be run", names.join(", "));
        Err(self.refused(
            Rule::Directory,
            found,
            "install it there, or allow its directory in the configuration",
        ))
    }

    /// Whether somebody who may not could put something else in the place of what is in `directory`.
    fn check_place(&self, directory: &Path, owner: Option<u32>) -> Result<(), NotAdmitted> {
        let shown = directory.display();
        let meta = std::fs::metadata(directory)
            .map_err(|error| self.broken(format!("is in {shown}, which cannot be looked at: {error}")))?;
        let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
        if uid != 0 && uid != rustix::process::geteuid().as_raw() && Some(uid) != owner {
            let found = format!("uid {uid}, to whom {shown} belongs, could put another file in its place");
            return Err(self.refused(
                Rule::Directory,
                found,
                format!("'chown' {shown}, or install it elsewhere"),
            ));
        }
        if mode & 0o022 != 0 && mode & 0o1000 == 0 {
            let found = format!("others can put another file in its place: {shown} has mode {mode:04o}");
            return Err(self.refused(
                Rule::Directory,
                found,
                format!("'chmod go-w {shown}', or install it elsewhere"),
            ));
        }
        Ok(())
    }

    /// Reads it once, for its digest and its signature.
    fn digest(&self, signature: Option<&Detached>) -> Result<String, NotAdmitted> {
        let mut context = Context::new(&SHA256);
        let mut read = |feed: &mut dyn FnMut(&[u8])| -> Result<(), NotAdmitted> {
            let length = read_all(&self.file, |bytes| {
                context.update(bytes);
                feed(bytes);
            });
            match length {
                Ok(length) if length == self.meta.len() && self.is_unchanged() => Ok(()),
                Ok(_) => Err(self.broken("was written while it was read: is it being copied?")),
                Err(error) => Err(self.broken(format!("cannot be read: {error}"))),
            }
        };
        match signature {
            None => read(&mut |_| {})?,
            Some(signature) => signature.verify(read)?.map_err(|why| self.unsigned(&why))?,
        }
        Ok(hexadecimal(context.finish().as_ref()))
    }

    /// Whether nobody has written to it since it was opened.
    fn is_unchanged(&self) -> bool {
        rustix::fs::fstat(&self.file).is_ok_and(|now| Stamp::of(&now) == self.stamp)
    }

    fn check_digest(&self, found: &str, wanted: &str, by: &str) -> Result<(), NotAdmitted> {
        if found.eq_ignore_ascii_case(wanted.trim()) {
            return Ok(());
        }
        let found = format!("its SHA-256 is {found}, and {} is {by}", wanted.trim());
        Err(self.refused(
            Rule::Sha256,
            found,
            "install the binary that is meant, or say the digest of this one",
        ))
    }

    fn admitted(self, sha256: String) -> Admitted {
        let executable = Executable::from_descriptor(self.file.into(), self.path.clone());
        Admitted { executable: Arc::new(executable), path: self.path, sha256, stamp: self.stamp }
    }
}

/// What programs this machine runs: as the one that runs now.
fn own_machine() -> io::Result<elf::Machine> {
    let own = File::open("/proc/self/exe")?;
    let head = bytes_at(&own, 0, HEADER_BYTES)?;
    Ok(Header::parse(&head, own.metadata()?.len()).map_err(io::Error::other)?.machine)
}

/// Up to `length` bytes from `at` on: fewer at the end of the file.
fn bytes_at(file: &File, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut have = 0_usize;
    while let Some(rest) = bytes.get_mut(have..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(have as u64)) {
            Ok(0) => break,
            Ok(count) => have += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(have);
    Ok(bytes)
}
