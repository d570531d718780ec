//! Putting files in their places: each whole or not at all.
//!
//! ```text
//!   bytes ─▶ a new file beside it (0600) ─▶ mode, owner ─▶ fsync ─▶ rename ─▶ fsync of the directory
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};

/// Mode of a new file with a private key in it.
const SECRET_MODE: u32 = 0o600;
/// Mode of any other new file.
const PLAIN_MODE: u32 = 0o644;

/// What became of several files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Placed {
    /// Those that were written, in this order.
    pub(crate) written: Vec<PathBuf>,
    /// How many had these bytes already.
    pub(crate) same: usize,
}

/// A file that could not be put in its place.
#[derive(Debug)]
pub(crate) struct NotPlaced {
    path: PathBuf,
    reason: io::Error,
}

impl std::fmt::Display for NotPlaced {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cannot be written: {}", self.path.display(), self.reason)
    }
}

/// Writes one new file with mode 0600. One that is there is replaced only if `replace` says so.
pub(crate) fn new_file(path: &Path, bytes: &[u8], replace: bool) -> io::Result<()> {
    put(path, bytes, SECRET_MODE, None, replace)
}

/// Writes several files in this order, each with its bytes and whether a private key is in it. Directories that are
/// missing are made. A file that is there keeps its mode and, where that is permitted, its owner; one that has
/// these bytes already is left alone. A symbolic link stays: what it leads to is written.
pub(crate) fn files(
    wanted: &[(PathBuf, &Arc<[u8]>, bool)],
    replace: bool,
) -> Result<Placed, (Placed, NotPlaced)> {
    let mut placed = Placed::default();
    for (path, bytes, secret) in wanted {
        match one(path, bytes, *secret, replace) {
            Ok(true) => placed.written.push(path.clone()),
            Ok(false) => placed.same += 1,
            Err(reason) => return Err((placed, NotPlaced { path: path.clone(), reason })),
        }
    }
    Ok(placed)
}

/// Whether it had to be written.
fn one(path: &Path, bytes: &[u8], secret: bool, replace: bool) -> io::Result<bool> {
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    let before = match fs::metadata(&target) {
        Ok(meta) if !meta.is_file() => return Err(io::Error::other("something that is no file is there")),
        Ok(meta) => Some(meta),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if before.as_ref().is_some_and(|meta| meta.len() == bytes.len() as u64) && fs::read(&target)? == bytes {
        return Ok(false);
    }
    if let Some(directory) = target.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
    }
    let mode =
        before.as_ref().map_or(if secret { SECRET_MODE } else { PLAIN_MODE }, |meta| meta.mode() & 0o7777);
    put(&target, bytes, mode, before.map(|meta| (meta.uid(), meta.gid())), replace)?;
    Ok(true)
}

fn put(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>, replace: bool) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::other("it is no file's name"))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut fresh = std::ffi::OsString::from(".");
    fresh.push(name);
    fresh.push(format!(".{}.new", std::process::id()));
    let fresh = directory.join(fresh);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(SECRET_MODE).open(&fresh)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| {
            if let Some((uid, gid)) = owner {
                // Only root may give files away; what another user writes is that user's.
                let _ = std::os::unix::fs::fchown(&file, Some(uid), Some(gid));
            }
            file.set_permissions(Permissions::from_mode(mode))
        })
        .and_then(|()| file.sync_all())
        .and_then(|()| rename(&fresh, path, replace));
    if let Err(error) = written {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

fn rename(from: &Path, to: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(from, to);
    }
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system without this flag: a link is not made where something is, either.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs::hard_link(from, to).and_then(|()| fs::remove_file(from))
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_file_is_private_and_replaces_nothing_unasked() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.backup");
        new_file(&path, b"one", false).unwrap();
        assert_eq!((fs::read(&path).unwrap(), mode(&path)), (b"one".to_vec(), 0o600));
        assert_eq!(new_file(&path, b"two", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        new_file(&path, b"two", true).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(directory.path()), ["a.backup"]);
    }

    #[test]
    fn files_keep_their_mode_and_links_stay_and_what_is_the_same_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::write(at("real.toml"), "old").unwrap();
        fs::set_permissions(at("real.toml"), Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("real.toml", at("site.toml")).unwrap();
        fs::write(at("same.pem"), "same").unwrap();
        let inode = fs::metadata(at("same.pem")).unwrap().ino();
        let bytes = |text: &str| Arc::<[u8]>::from(text.as_bytes());
        let (new, same, key) = (bytes("new"), bytes("same"), bytes("key"));
        let wanted = [
            (at("deep/er/a.key"), &key, true),
            (at("deep/er/a.pem"), &new, false),
            (at("same.pem"), &same, false),
            (at("site.toml"), &new, false),
        ];
        let placed = files(&wanted, true).unwrap();
        assert_eq!(placed.written, [at("deep/er/a.key"), at("deep/er/a.pem"), at("site.toml")]);
        assert_eq!(placed.same, 1);
        assert_eq!(fs::metadata(at("same.pem")).unwrap().ino(), inode);
        assert!(fs::symlink_metadata(at("site.toml")).unwrap().is_symlink());
        assert_eq!((fs::read(at("real.toml")).unwrap(), mode(&at("real.toml"))), (b"new".to_vec(), 0o640));
        assert_eq!((mode(&at("deep/er/a.key")), mode(&at("deep/er/a.pem"))), (0o600, 0o644));
        assert_eq!(names(directory.path()), ["deep", "real.toml", "same.pem", "site.toml"]);
        assert_eq!(files(&wanted, true).unwrap(), Placed { written: Vec::new(), same: 4 });
    }

    #[test]
    fn what_cannot_be_written_is_named_with_what_was_written_before() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("b")).unwrap();
        let bytes = Arc::<[u8]>::from(&b"x"[..]);
        let wanted =
            [(directory.path().join("a"), &bytes, false), (directory.path().join("b"), &bytes, false)];
        let (placed, error) = files(&wanted, true).unwrap_err();
        assert_eq!(placed.written, [directory.path().join("a")]);
        assert!(
            error.to_string().ends_with("/b cannot be written: something that is no file is there"),
            "{error}"
        );
    }
}
