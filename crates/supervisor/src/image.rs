//! Programs that workers are started from: each kept open, and known by its digest.
//!
//! ```text
//!   this process's own ─┐
//!   admitted ───────────┼─▶ Image ─▶ a worker runs it; workers that replace that one are started from it
//!   an adopted worker's ┘      └─ SHA-256, found out once, where it may take its time
//! ```

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use handover_api::Binary;
use handover_handoff::process::Executable;

use crate::binary::{self, Admitted, NotAdmitted};

/// What the kernel adds to the path of a file that is there no more (proc(5)).
const DELETED: &[u8] = b" (deleted)";

/// An executable, kept open: what becomes of its path does not matter any more.
#[derive(Debug)]
pub(crate) struct Image {
    executable: Arc<Executable>,
    path: PathBuf,
    sha256: OnceLock<String>,
    version: OnceLock<String>,
    /// As it was when it was let in.
    admitted: Option<Admitted>,
}

impl Image {
    /// One of which the digest is not known yet, nor the version if it is not given.
    pub(crate) fn new(executable: Executable, version: Option<String>) -> Self {
        let path = without_mark(executable.path());
        let program = Image {
            executable: Arc::new(executable),
            path,
            sha256: OnceLock::new(),
            version: OnceLock::new(),
            admitted: None,
        };
        if let Some(version) = version {
            program.is_version(version);
        }
        program
    }

    /// One that was let in.
    pub(crate) fn admitted(admitted: Admitted) -> Self {
        Image {
            executable: Arc::clone(&admitted.executable),
            path: admitted.path.clone(),
            sha256: OnceLock::from(admitted.sha256.clone()),
            version: OnceLock::new(),
            admitted: Some(admitted),
        }
    }

    /// One that was known before, with what was known of it.
    pub(crate) fn known(executable: Arc<Executable>, known: &Binary) -> Self {
        Image {
            executable,
            path: PathBuf::from(&known.path),
            sha256: known.sha256.clone().map_or_else(OnceLock::new, OnceLock::from),
            version: known.version.clone().map_or_else(OnceLock::new, OnceLock::from),
            admitted: None,
        }
    }

    /// Whether it still is as it was when it was let in, if it was; to be asked before it is started.
    ///
    /// # Errors
    /// It was written to.
    pub(crate) fn check(&self) -> Result<(), NotAdmitted> {
        self.admitted.as_ref().map_or(Ok(()), Admitted::check_unchanged)
    }

    pub(crate) fn executable(&self) -> &Arc<Executable> {
        &self.executable
    }

    /// Where it was found.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It has said which version it is. What it said first stays.
    pub(crate) fn is_version(&self, version: String) {
        if !version.is_empty() {
            let _ = self.version.set(version);
        }
    }

    /// Its version; empty as long as it has not said it.
    pub(crate) fn version(&self) -> &str {
        self.version.get().map_or("", String::as_str)
    }

    /// SHA-256 of its bytes, if that is known by now.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.sha256.get().map(String::as_str)
    }

    /// The same; reads the file if it must: call it where that may take its time.
    pub(crate) fn find_sha256(&self) -> io::Result<&str> {
        if let Some(known) = self.sha256.get() {
            return Ok(known);
        }
        let found = binary::sha256_of(&self.executable)?;
        Ok(self.sha256.get_or_init(|| found))
    }

    /// As the API describes it.
    pub(crate) fn described(&self) -> Binary {
        Binary {
            version: self.version.get().cloned(),
            sha256: self.sha256.get().cloned(),
            path: self.path.display().to_string(),
        }
    }
}

/// The path without what the kernel adds if nothing is there any more.
fn without_mark(path: &Path) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_suffix(DELETED).unwrap_or(bytes);
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_whose_file_was_replaced_is_called_by_its_path() {
        let of = |path: &str| without_mark(Path::new(path));
        assert_eq!(of("/usr/bin/server (deleted)"), Path::new("/usr/bin/server"));
        assert_eq!(of("/usr/bin/server"), Path::new("/usr/bin/server"));
    }

    #[test]
    fn what_it_says_first_of_itself_stays() {
        let program = Image::new(Executable::open(Path::new("/bin/sh")).unwrap(), None);
        assert_eq!((program.version(), program.sha256()), ("", None));
        program.is_version(String::new());
        program.is_version("1".to_owned());
        program.is_version("2".to_owned());
        assert_eq!(program.described(), Binary { version: Some("1".to_owned()), ..Binary::at("/bin/sh") });
    }
}
