//! Copies of binaries that served: what `rollback --binary` goes back to, whatever was installed since.
//!
//! ```text
//!   <state>/binaries/          0700
//!     .new                     while one is being written
//!     <sha256>                 0700, whole or not at all; the last two stay
//! ```
//!
//! A copy is made of the descriptor that was run, not of a path, and only counts if it has the digest that was run.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use handover_handoff::process::Executable;

use super::{hexadecimal, read_all, sha256_of};

/// The directory's name in the state directory.
const DIRECTORY: &str = "binaries";
/// A copy that is not whole yet.
const TEMPORARY: &str = ".new";
/// Copies that are kept.
const KEPT: usize = 2;
/// Mode of a copy: for the server's own user.
const MODE: u32 = 0o700;
/// Hexadecimal digits of a digest.
const DIGITS: usize = 64;

/// Where the copy of the binary with this digest is, if it was kept.
pub(super) fn path_of(state: &Path, sha256: &str) -> PathBuf {
    state.join(DIRECTORY).join(sha256)
}

/// Copies a binary that served into the state directory, so that it can be gone back to: `<state>/binaries/<sha256>`,
/// whole or not at all. Those that were kept before the last two go. Blocks for as long as the disk takes.
///
/// # Errors
/// As the disk says, or the binary was changed since it was started: then nothing is kept beside what was.
pub(crate) fn keep(state: &Path, executable: &Executable, sha256: &str) -> io::Result<PathBuf> {
    let directory = state.join(DIRECTORY);
    DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
    let path = path_of(state, sha256);
    let there = Executable::open(&path).and_then(|there| sha256_of(&there));
    if there.is_ok_and(|there| there == sha256) {
        // Kept once more: it counts as new. Setting its mode, even to what it is, sets the time that `forget_old` looks at,
        // and not the time at which it was written: it may be the very file that is about to be run, and must not look as
        // if somebody had written to it.
        fs::set_permissions(&path, Permissions::from_mode(MODE))?;
    } else {
        copy(&directory, executable, sha256)?;
    }
    forget_old(&directory, sha256)?;
    Ok(path)
}

fn copy(directory: &Path, executable: &Executable, sha256: &str) -> io::Result<()> {
    let temporary = directory.join(TEMPORARY);
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write(&temporary, executable, sha256).and_then(|()| {
        fs::rename(&temporary, directory.join(sha256))?;
        File::open(directory)?.sync_all()
    });
    if written.is_err() {
        // What stays is removed by the next attempt.
        let _ = fs::remove_file(&temporary);
    }
    written
}

fn write(path: &Path, executable: &Executable, sha256: &str) -> io::Result<()> {
    let mut copy = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    let mut context = Context::new(&SHA256);
    let mut written = Ok(());
    read_all(&executable.read()?, |bytes| {
        context.update(bytes);
        if written.is_ok() {
            written = copy.write_all(bytes);
        }
    })?;
    written?;
    if hexadecimal(context.finish().as_ref()) != sha256 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the binary was changed since it was started",
        ));
    }
    copy.sync_all()
}

/// Removes all copies but the one that was kept now and the newest beside it.
fn forget_old(directory: &Path, newest: &str) -> io::Result<()> {
    let mut others: Vec<((i64, i64), PathBuf)> = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.len() == DIGITS && name != newest {
            let meta = entry.metadata()?;
            others.push(((meta.ctime(), meta.ctime_nsec()), entry.path()));
        }
    }
    others.sort();
    let surplus = others.len().saturating_sub(KEPT.saturating_sub(1));
    others.iter().take(surplus).try_for_each(|(_, path)| fs::remove_file(path))
}
