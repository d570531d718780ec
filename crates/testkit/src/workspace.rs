//! A directory of one test, with everything that a server under test may write.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary directory, removed when the test ends (kept, and its path told, when `HANDOVER_TEST_KEEP` is set).
///
/// Its path is short, because the paths of Unix sockets may have 107 bytes only.
#[derive(Debug)]
pub struct Workspace {
    directory: TempDir,
}

/// What a file system knows of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Kind and permissions.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// The inode: another one if the file was replaced.
    pub inode: u64,
    /// Bytes, of a file.
    pub length: u64,
    /// When it was last written, in seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Where a symbolic link leads.
    pub target: Option<PathBuf>,
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

impl Workspace {
    /// A new, empty one.
    #[must_use]
    pub fn new() -> Self {
        let mut directory = tempfile::Builder::new().prefix("ho").tempdir().expect("temporary directory");
        if std::env::var_os("HANDOVER_TEST_KEEP").is_some() {
            directory.disable_cleanup(true);
            eprintln!("workspace kept: {}", directory.path().display());
        }
        let this = Self { directory };
        // A runtime directory must belong to its user alone: that is what XDG_RUNTIME_DIR promises.
        for part in ["run", "state", "home"] {
            fs::create_dir(this.path(part)).expect("workspace part");
            this.mode(part, 0o700);
        }
        this
    }

    /// The path of something in it.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The directory itself.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// The directory given to programs as `XDG_RUNTIME_DIR`.
    #[must_use]
    pub fn runtime(&self) -> PathBuf {
        self.path("run")
    }

    /// The directory given to programs as `XDG_STATE_HOME`.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// The control socket that servers of this workspace are told to use.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.path("run/control.sock")
    }

    /// Writes a file, as an editor that replaces it would: another file, renamed over the old one.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).expect("directory in the workspace");
        }
        let mut other = path.clone().into_os_string();
        other.push(".new");
        fs::write(&other, content).expect("file in the workspace");
        fs::rename(&other, &path).expect("file in the workspace put in place");
        path
    }

    /// Writes into the file that is there, keeping its inode, as `echo > file` does.
    pub fn overwrite(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).expect("file in the workspace");
    }

    /// What a file holds.
    #[must_use]
    pub fn read(&self, name: impl AsRef<Path>) -> String {
        fs::read_to_string(self.path(name)).expect("file in the workspace")
    }

    /// Removes a file.
    pub fn remove(&self, name: impl AsRef<Path>) {
        fs::remove_file(self.path(name)).expect("file in the workspace removed");
    }

    /// Changes the mode of a file or directory.
    pub fn mode(&self, name: impl AsRef<Path>, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).expect("mode set");
    }

    /// Everything beneath it with all that a write would change: to show that nothing was touched. Sockets' times are
    /// left out: connecting to one changes nothing that anybody wrote.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, Entry> {
        let entries = self.listing().into_iter().filter_map(|name| {
            let path = self.path(&name);
            let about = fs::symlink_metadata(&path).ok()?;
            let kind = about.file_type();
            let entry = Entry {
                mode: about.mode(),
                owner: (about.uid(), about.gid()),
                inode: about.ino(),
                length: if kind.is_file() { about.len() } else { 0 },
                modified: if kind.is_socket() { (0, 0) } else { (about.mtime(), about.mtime_nsec()) },
                target: fs::read_link(&path).ok(),
            };
            Some((name, entry))
        });
        entries.collect()
    }

    /// Every file and directory beneath it, relative and sorted: to show that nothing was written.
    #[must_use]
    pub fn listing(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut left = vec![self.root().to_owned()];
        while let Some(directory) = left.pop() {
            for entry in fs::read_dir(directory).expect("directory of the workspace").flatten() {
                let path = entry.path();
                found.push(path.strip_prefix(self.root()).unwrap_or(&path).display().to_string());
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    left.push(path);
                }
            }
        }
        found.sort();
        found
    }
}
