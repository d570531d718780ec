//! Where the configuration comes from: a file, a key in etcd, a web page, the command line, or the program itself.
//!
//! ```text
//!   given (a generation is served again) ─┐
//!   file, key, page, made, built in ──────┴─▶ text, its name for messages, what relative paths are relative to
//! ```
//!
//! Files that a configuration names are files in all cases. Those of a configuration that is no file itself are
//! relative to the base directory ([`crate::ProxyService::with_base`]).
//!
//! | module | for |
//! |---|---|
//! | `location` | URLs: read strictly, shown without secrets |
//! | `access` | who we are to a store, from the environment |
//! | `client` | HTTP with limits, and what an answer says about the configuration |
//! | `etcd`, `https` | the two kinds of store |
//! | `store` | what was read last, and waiting for something else |

mod access;
mod client;
mod etcd;
mod file;
mod https;
mod location;
mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use handover::watch::Source;
use handover::{GivenTop, Prepare, Problem};

use crate::config;
use access::Access;
pub use access::{
    CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE, PASSWORD_VARIABLE, TOKEN_VARIABLE, USER_VARIABLE,
};
use client::Trouble;
pub use location::{Location, LocationError};
use store::Store;

/// The name of the built-in configuration in problems.
const BUILT_IN: &str = "the built-in configuration";
/// The same of one that was made of a command line.
const COMMAND_LINE: &str = "the configuration made of the command line";

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    /// This file; relative paths in it are relative to its directory.
    File(PathBuf),
    /// A key in etcd, or a web page.
    Store(Location),
    /// [`config::DEFAULT`].
    BuiltIn,
    /// This text, which was made of the command line; relative paths in it are relative to the working directory.
    CommandLine(String),
}

impl ConfigSource {
    /// What it is called in messages; never anything secret.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            ConfigSource::File(path) => path.display().to_string(),
            ConfigSource::Store(location) => location.to_string(),
            ConfigSource::BuiltIn => BUILT_IN.to_owned(),
            ConfigSource::CommandLine(_) => COMMAND_LINE.to_owned(),
        }
    }
}

/// A configuration as it was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// Its name for messages.
    pub(crate) name: String,
    pub(crate) bytes: Arc<[u8]>,
    /// What deserves a look in how it was had.
    pub(crate) warnings: Vec<Problem>,
}

/// Reads the configuration from its source, as often as it is asked to. Clones know of each other's reading.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    source: ConfigSource,
    /// What relative paths in a configuration that is no file are relative to.
    base: PathBuf,
    store: Option<Arc<Store>>,
}

impl Reader {
    /// With the directory in which the server was started as base, and credentials from the environment.
    pub(crate) fn new(source: ConfigSource) -> Self {
        let base = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let access = Access::from_environment(|name| std::env::var(name).ok());
        Self::with(source, base, access)
    }

    fn with(source: ConfigSource, base: PathBuf, access: Access) -> Self {
        let store = match &source {
            ConfigSource::Store(location) => Some(Arc::new(Store::new(location.clone(), access))),
            ConfigSource::File(_) | ConfigSource::BuiltIn | ConfigSource::CommandLine(_) => None,
        };
        Self { source, base, store }
    }

    /// Makes relative paths in a configuration that is no file relative to this directory.
    pub(crate) fn with_base(mut self, base: PathBuf) -> Self {
        self.base = base;
        self
    }

    /// Gets the configuration, enters it as the generation's top-level file, and makes relative paths relative to its
    /// directory.
    ///
    /// A generation that is served again has its own, whatever this server was started with; nothing is asked of a
    /// store then.
    pub(crate) fn read(&self, cx: &mut Prepare) -> Result<Text, Vec<Problem>> {
        if let Some(given) = cx.given_top() {
            return self.enter_given(cx, &given);
        }
        match (&self.source, &self.store) {
            (ConfigSource::File(path), _) => file::read(cx, path),
            (ConfigSource::Store(location), Some(store)) => self.fetch(cx, location, store),
            (ConfigSource::CommandLine(text), _) => {
                let text = cx.made().unwrap_or(text).to_owned();
                self.enter(cx, COMMAND_LINE, text.as_bytes())
            }
            _ => self.enter(cx, BUILT_IN, config::DEFAULT.as_bytes()),
        }
    }

    /// What of a configuration must be known before a store is asked for it, and so has no effect in one.
    pub(crate) fn without_effect(&self, control: &config::Control, spans: &config::Spans) -> Vec<Problem> {
        let places = [
            ("/control/socket", &control.socket, "--control"),
            ("/control/state", &control.state, "--state"),
        ];
        let places = places.into_iter().filter(|(_, place, _)| self.store.is_some() && place.is_some());
        let problem = |(pointer, _, option): (&str, _, &str)| {
            let detail =
                format!("has no effect in a configuration from a store: give {option} to 'handover serve'");
            spans.problem(pointer, &detail)
        };
        places.map(problem).collect()
    }

    /// The store, to be watched; a page is asked for every `poll`.
    pub(crate) fn watched(&self, poll: Duration) -> Option<Arc<dyn Source>> {
        let store = self.store.clone()?;
        store.set_poll(poll);
        Some(store)
    }

    fn fetch(&self, cx: &mut Prepare, location: &Location, store: &Store) -> Result<Text, Vec<Problem>> {
        let name = location.to_string();
        let fetched = store.fetch(cx.is_dry_run()).map_err(|trouble| {
            if matches!(trouble, Trouble::Unreachable(_)) {
                cx.unreachable();
            }
            vec![Problem::new(trouble.to_string()).in_file(name.as_str())]
        })?;
        if let Some(version) = fetched.version {
            cx.set_version(version);
        }
        let mut text = self.enter(cx, &name, &fetched.bytes)?;
        text.warnings.extend(location.warning().map(|detail| Problem::new(detail).in_file(name)));
        Ok(text)
    }

    fn enter_given(&self, cx: &mut Prepare, given: &GivenTop) -> Result<Text, Vec<Problem>> {
        if given.on_disk {
            file::read(cx, &given.name)
        } else {
            if let Some(store) = self.store.as_ref().filter(|_| cx.continues()) {
                store.continues(&given.bytes);
            }
            self.enter(cx, &given.name.display().to_string(), &given.bytes)
        }
    }

    fn enter(&self, cx: &mut Prepare, name: &str, bytes: &[u8]) -> Result<Text, Vec<Problem>> {
        cx.set_base(&self.base);
        match cx.built_in_top(name, bytes) {
            Ok(bytes) => Ok(Text { name: name.to_owned(), bytes, warnings: Vec::new() }),
            Err(error) => Err(vec![Problem::new(format!("cannot be used: {error}")).in_file(name)]),
        }
    }
}
