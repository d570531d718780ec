//! Where the control socket and the state directory are unless somebody says otherwise.
//!
//! | | root | any other user |
//! |---|---|---|
//! | control socket | `/run/handover/<name>.sock` | `$XDG_RUNTIME_DIR/handover/<name>.sock`, or `/tmp/handover-<uid>/<name>.sock` |
//! | state directory | `/var/lib/handover/<id>` | `$XDG_STATE_HOME/handover/<id>`, or `~/.local/state/handover/<id>` |
//!
//! `<id>` is made of the control socket's path, so that two servers of one user do not share a journal. Root is
//! given the second column too if the variable is set, so that a test or a container can have everything in one place.

use std::env;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The directory name for all servers of this program's kind.
const DIRECTORY: &str = "handover";

/// The default control socket of the server with this name.
#[must_use]
pub fn control_socket(name: &str) -> PathBuf {
    let directory = runtime_directory(env::var_os("XDG_RUNTIME_DIR"), rustix::process::geteuid().as_raw());
    directory.join(format!("{name}.sock"))
}

/// The default state directory of the server with this control socket.
#[must_use]
pub fn state_directory(control: &Path) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    state_home(env::var_os("XDG_STATE_HOME"), env::var_os("HOME"), uid).join(DIRECTORY).join(id_of(control))
}

fn runtime_directory(xdg: Option<OsString>, uid: u32) -> PathBuf {
    match (absolute(xdg), uid) {
        (Some(directory), _) => directory.join(DIRECTORY),
        (None, 0) => Path::new("/run").join(DIRECTORY),
        (None, uid) => PathBuf::from(format!("/tmp/{DIRECTORY}-{uid}")),
    }
}

fn state_home(xdg: Option<OsString>, home: Option<OsString>, uid: u32) -> PathBuf {
    match (absolute(xdg), uid, absolute(home)) {
        (Some(directory), _, _) => directory,
        (None, 0, _) => PathBuf::from("/var/lib"),
        (None, _, Some(home)) => home.join(".local/state"),
        (None, uid, None) => PathBuf::from(format!("/tmp/{DIRECTORY}-{uid}")),
    }
}

/// The XDG base directory specification: a relative path is to be ignored.
fn absolute(variable: Option<OsString>) -> Option<PathBuf> {
    variable.map(PathBuf::from).filter(|path| path.is_absolute())
}

/// The socket's file name, for people, and a piece of the digest of its whole path.
fn id_of(control: &Path) -> String {
    let control = std::path::absolute(control).unwrap_or_else(|_| control.to_owned());
    let stem = control.file_stem().map_or_else(|| "server".into(), |stem| stem.to_string_lossy());
    let digest = blake3::hash(control.as_os_str().as_bytes()).to_hex();
    format!("{stem}-{}", digest.as_str().chars().take(8).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_first_then_the_users_own_places() {
        let some = |text: &str| Some(OsString::from(text));
        assert_eq!(runtime_directory(some("/run/user/7"), 7), Path::new("/run/user/7/handover"));
        assert_eq!(runtime_directory(None, 0), Path::new("/run/handover"));
        assert_eq!(runtime_directory(some("relative"), 7), Path::new("/tmp/handover-7"));
        assert_eq!(state_home(some("/s"), some("/home/u"), 0), Path::new("/s"));
        assert_eq!(state_home(None, some("/root"), 0), Path::new("/var/lib"));
        assert_eq!(state_home(None, some("/home/u"), 7), Path::new("/home/u/.local/state"));
    }

    #[test]
    fn two_sockets_have_two_state_directories_and_one_socket_always_the_same() {
        assert_ne!(id_of(Path::new("/run/a/app.sock")), id_of(Path::new("/run/b/app.sock")));
        assert_eq!(id_of(Path::new("/run/a/app.sock")), id_of(Path::new("/run/a/app.sock")));
        assert!(id_of(Path::new("/run/a/app.sock")).starts_with("app-"));
    }
}
