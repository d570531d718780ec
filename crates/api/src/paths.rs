//! Where a server of a given name keeps its control socket and its state, unless it is told otherwise.
//!
//! | who runs it | control socket | state |
//! |---|---|---|
//! | root | `/run/NAME/control.sock` | `/var/lib/NAME/ID` |
//! | a user | `$XDG_RUNTIME_DIR/NAME/control.sock` | `$XDG_STATE_HOME/NAME/ID` |
//! | … without that variable | `/tmp/NAME-UID/control.sock` | `$HOME/.local/state/NAME/ID` |
//! | … and without a home | | beside the control socket: `state/ID` |
//!
//! `ID` is made of the control socket's path, so that two servers of one user never share a journal, and the
//! next supervisor on the same socket finds it again. Variables that are no absolute path are ignored, as the
//! XDG Base Directory Specification asks.

use std::env;
use std::path::{Path, PathBuf};

/// Name of the control socket in its directory.
const SOCKET: &str = "control.sock";
/// Readable characters of a control socket's path in the ID of its state.
const READABLE: usize = 40;
/// Hexadecimal digits of that path's hash in it.
const DIGITS: usize = 12;

/// What the default paths depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Effective user ID.
    pub uid: u32,
    /// `XDG_RUNTIME_DIR`.
    pub runtime: Option<PathBuf>,
    /// `XDG_STATE_HOME`.
    pub state: Option<PathBuf>,
    /// `HOME`.
    pub home: Option<PathBuf>,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn here() -> Self {
        let path = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            uid: rustix::process::geteuid().as_raw(),
            runtime: path("XDG_RUNTIME_DIR"),
            state: path("XDG_STATE_HOME"),
            home: path("HOME"),
        }
    }

    /// The control socket of the server called `name`.
    #[must_use]
    pub fn control(&self, name: &str) -> PathBuf {
        let directory = match (self.uid, &self.runtime) {
            (0, _) => PathBuf::from("/run").join(name),
            (_, Some(runtime)) => runtime.join(name),
            (uid, None) => PathBuf::from(format!("/tmp/{name}-{uid}")),
        };
        directory.join(SOCKET)
    }

    /// The state directory of the server called `name` whose control socket is at `control` (absolute).
    #[must_use]
    pub fn state(&self, name: &str, control: &Path) -> PathBuf {
        let base = match (self.uid, &self.state, &self.home) {
            (0, _, _) => PathBuf::from("/var/lib").join(name),
            (_, Some(state), _) => state.join(name),
            (_, None, Some(home)) => home.join(".local/state").join(name),
            (_, None, None) => control.parent().unwrap_or(Path::new("/")).join("state"),
        };
        base.join(identity(control))
    }
}

/// `run-handover-control.sock-1f0a…`: readable, and different for different paths.
fn identity(control: &Path) -> String {
    let bytes = control.as_os_str().as_encoded_bytes();
    let readable: String = String::from_utf8_lossy(bytes)
        .trim_matches('/')
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let tail = readable.len().saturating_sub(READABLE);
    let hash = blake3::hash(bytes).to_hex();
    format!("{}-{}", readable[tail..].trim_start_matches(['-', '.']), &hash.as_str()[..DIGITS])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(runtime: Option<&str>, state: Option<&str>, home: Option<&str>) -> Surroundings {
        let path = |text: Option<&str>| text.map(PathBuf::from);
        Surroundings { uid: 1000, runtime: path(runtime), state: path(state), home: path(home) }
    }

    #[test]
    fn the_control_socket_is_where_the_table_says() {
        let root = Surroundings { uid: 0, ..user(Some("/run/user/0"), None, None) };
        assert_eq!(root.control("handover"), Path::new("/run/handover/control.sock"));
        let with = user(Some("/run/user/1000"), None, None);
        assert_eq!(with.control("handover"), Path::new("/run/user/1000/handover/control.sock"));
        assert_eq!(user(None, None, None).control("app"), Path::new("/tmp/app-1000/control.sock"));
    }

    #[test]
    fn the_state_is_where_the_table_says_and_never_shared() {
        let control = Path::new("/run/user/1000/handover/control.sock");
        let parent = |here: Surroundings| here.state("handover", control).parent().map(Path::to_owned);
        assert_eq!(parent(user(None, Some("/s"), Some("/h"))).unwrap(), Path::new("/s/handover"));
        assert_eq!(parent(user(None, None, Some("/h"))).unwrap(), Path::new("/h/.local/state/handover"));
        assert_eq!(parent(user(None, None, None)).unwrap(), Path::new("/run/user/1000/handover/state"));
        let root = Surroundings::default();
        assert_eq!(parent(root.clone()).unwrap(), Path::new("/var/lib/handover"));
        assert_eq!(root.state("a", control), root.state("a", control));
        assert_ne!(root.state("a", Path::new("/x/y.sock")), root.state("a", Path::new("/x-y.sock")));
    }

    #[test]
    fn an_id_is_readable_and_no_path() {
        let id = identity(Path::new("/run/user/1000/handover/control.sock"));
        assert!(id.starts_with("run-user-1000-handover-control.sock-"), "{id}");
        let id = identity(Path::new("/../../a/ü/..."));
        assert!(!id.contains('/') && !id.starts_with('.'), "{id}");
    }
}
