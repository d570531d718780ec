//! What a copy is started from: the definition of its program, and the place of its version.
//!
//! ```text
//!   ProgramSpec ──┐
//!   slot, or      ├─▶ Edition ── + copy, private address ─▶ Words ── expand ─▶ command, environment, directory
//!   directory   ──┘
//! ```
//!
//! Words in braces stand for what is known only when a copy is started ([`Words`]); `{{` and `}}` are braces. What stands in
//! braces and is none of these words stays as it is: `${HOME}` in a shell's command.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::SharedSocket;
use crate::protocol::{Address, ProgramSpec, Slot};

/// Where a version of a program lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Place {
    /// One of its slots, by name.
    Slot(String),
    /// A directory that somebody has named; absolute.
    Directory(PathBuf),
}

/// `b`, `/srv/releases/42`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Slot(name) => f.write_str(name),
            Place::Directory(path) => path.display().fmt(f),
        }
    }
}

/// What copies are started from.
#[derive(Debug, Clone)]
pub(super) struct Edition {
    /// The definition.
    pub(super) spec: Arc<ProgramSpec>,
    /// Where its version lies; `None` if the program has no slots and none was named.
    pub(super) place: Option<Place>,
    /// The sockets that all copies share, in the order of the definition.
    pub(super) sockets: Vec<SharedSocket>,
}

impl Edition {
    /// The slot, if its place is one that the definition has.
    pub(super) fn slot(&self) -> Option<&Slot> {
        match &self.place {
            Some(Place::Slot(name)) => self.spec.slots.iter().find(|slot| slot.name == *name),
            _ => None,
        }
    }

    /// Where it is started.
    pub(super) fn directory(&self) -> Option<&Path> {
        let of_slot = self.slot().and_then(|slot| slot.directory.as_deref());
        match &self.place {
            Some(Place::Directory(path)) => Some(path),
            _ => of_slot.or(self.spec.directory.as_deref()),
        }
    }

    /// The command, before words are filled in.
    pub(super) fn command(&self) -> &[String] {
        self.slot().and_then(|slot| slot.command.as_deref()).unwrap_or(&self.spec.command)
    }

    /// The variables, before words are filled in; the slot's own come first.
    pub(super) fn environment(&self) -> BTreeMap<String, String> {
        let mut all = self.spec.environment.clone();
        all.extend(self.slot().iter().flat_map(|slot| slot.environment.clone()));
        all
    }

    /// Whether copies of the two could not be told apart: the same is started at the same place on the same sockets.
    pub(super) fn is_same(&self, other: &Edition) -> bool {
        let socket = |shared: &SharedSocket| shared.actual.clone();
        self.starts_same(other) && self.sockets.iter().map(socket).eq(other.sockets.iter().map(socket))
    }

    /// Whether both start the same; what differs otherwise is when and how it is watched, restarted and replaced.
    pub(super) fn starts_same(&self, other: &Edition) -> bool {
        let (one, two) = (&self.spec, &other.spec);
        self.place == other.place
            && self.command() == other.command()
            && self.directory() == other.directory()
            && self.environment() == other.environment()
            && one.clear_environment == two.clear_environment
            && one.user == two.user
            && one.limits == two.limits
            && one.sockets == two.sockets
            && one.pass == two.pass
            && one.private == two.private
    }

    /// What is known of it before a copy is there.
    pub(super) fn words(&self) -> Words {
        let first = self.sockets.first();
        Words {
            name: self.spec.name.clone(),
            slot: self.place.as_ref().map(ToString::to_string),
            directory: self.directory().map(|path| path.display().to_string()),
            fd: first.map(|_| self.spec.pass.first_fd),
            port: first
                .and_then(|shared| shared.actual.parse::<std::net::SocketAddr>().ok())
                .map(|at| at.port()),
            socket: first.and_then(|shared| shared.actual.strip_prefix("unix:").map(str::to_owned)),
            copy: None,
            pid: None,
        }
    }
}

/// What the words in braces stand for.
#[derive(Debug, Clone, Default)]
pub(super) struct Words {
    /// `{name}`: the program's name.
    pub(super) name: String,
    /// `{slot}`: the slot's name, or the directory in its place.
    pub(super) slot: Option<String>,
    /// `{directory}`: where it is started.
    pub(super) directory: Option<String>,
    /// `{fd}`: the number of the first socket that is passed.
    pub(super) fd: Option<i32>,
    /// `{port}`: of the private address if there is one, of the first shared socket otherwise.
    pub(super) port: Option<u16>,
    /// `{socket}`: the same as a path (`@name` for an abstract one).
    pub(super) socket: Option<String>,
    /// `{copy}`: the copy's number, from 1.
    pub(super) copy: Option<u32>,
    /// `{pid}`: the process ID of the copy's first process.
    pub(super) pid: Option<u32>,
}

/// A word in braces that stands for nothing here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{{{word}}} in {text:?} stands for nothing: {why}")]
pub(super) struct Unfilled {
    /// The word.
    pub(super) word: &'static str,
    /// Where it stands.
    pub(super) text: String,
    /// What is missing.
    pub(super) why: &'static str,
}

impl Words {
    /// With the address that a copy has for itself.
    pub(super) fn at(mut self, private: &Address, passed: bool, first_fd: i32) -> Self {
        match private {
            Address::Tcp(address) => self.port = Some(address.port()),
            Address::Unix { path, .. } => self.socket = Some(path.display().to_string()),
            Address::Abstract(name) => self.socket = Some(format!("@{name}")),
        }
        if passed {
            self.fd = Some(self.fd.unwrap_or(first_fd));
        }
        self
    }

    /// Fills them in.
    pub(super) fn expand(&self, text: &str) -> Result<String, Unfilled> {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            if let Some(after) = rest.strip_prefix("{{") {
                filled.push('{');
                rest = after;
            } else if let Some(after) = rest.strip_prefix("}}") {
                filled.push('}');
                rest = after;
            } else if let Some((value, after)) = self.first(rest, text)? {
                filled.push_str(&value);
                rest = after;
            } else {
                filled.push_str(&rest[..1]);
                rest = &rest[1..];
            }
        }
        filled.push_str(rest);
        Ok(filled)
    }

    /// The same for each.
    pub(super) fn expand_all(&self, texts: &[String]) -> Result<Vec<String>, Unfilled> {
        texts.iter().map(|text| self.expand(text)).collect()
    }

    /// What `rest` begins with, if that is a word in braces, and what follows it.
    fn first<'a>(&self, rest: &'a str, text: &str) -> Result<Option<(String, &'a str)>, Unfilled> {
        let Some((word, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return Ok(None);
        };
        let number = |value: Option<u32>| value.map(|value| value.to_string());
        let (word, value, why) = match word {
            "name" => ("name", Some(self.name.clone()), ""),
            "slot" => ("slot", self.slot.clone(), "the program has no slots"),
            "directory" => ("directory", self.directory.clone(), "the program has no directory"),
            "fd" => ("fd", self.fd.map(|fd| fd.to_string()), "no socket is passed to the program"),
            "port" => ("port", number(self.port.map(u32::from)), "the program has no TCP address"),
            "socket" => ("socket", self.socket.clone(), "the program has no Unix socket"),
            "copy" => ("copy", number(self.copy), "there is no copy yet"),
            "pid" => ("pid", number(self.pid), "there is no process yet"),
            _ => return Ok(None),
        };
        match value {
            Some(value) => Ok(Some((value, after))),
            None => Err(Unfilled { word, text: text.to_owned(), why }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        Words { name: "web".to_owned(), fd: Some(3), port: Some(8080), copy: Some(2), ..Words::default() }
    }

    #[test]
    fn words_in_braces_are_filled_in_and_doubled_braces_are_braces() {
        let filled = words().expand("{name}-{copy} fd://{fd} :{port} {{port}} }}{{").unwrap();
        assert_eq!(filled, "web-2 fd://3 :8080 {port} }{");
    }

    #[test]
    fn what_is_no_word_of_ours_stays_as_it_is() {
        for text in ["${HOME}", "{", "}", "a{b", "{\"json\": 1}", "", "ü{ö}"] {
            assert_eq!(words().expand(text).unwrap(), text);
        }
    }

    #[test]
    fn a_word_that_stands_for_nothing_is_named() {
        let unfilled = words().expand("--dir {slot}").unwrap_err();
        assert_eq!(
            unfilled.to_string(),
            r#"{slot} in "--dir {slot}" stands for nothing: the program has no slots"#
        );
    }

    #[test]
    fn the_address_of_a_copy_comes_before_those_that_all_share() {
        let private = Address::Tcp("127.0.0.1:5000".parse().unwrap());
        assert_eq!(words().at(&private, false, 3).expand("{port} {fd}").unwrap(), "5000 3");
        let socket = Address::Unix { path: "/run/web.sock".into(), mode: 0o600 };
        let alone = Words::default().at(&socket, true, 5);
        assert_eq!(alone.expand("{socket} {fd}").unwrap(), "/run/web.sock 5");
    }
}
