//! Where the configuration comes from: a file, a key in etcd, a web page, or the program itself.
//!
//! ```text
//!   given (a generation is served again) ─┐
//!   file, key, page, built in ────────────┴─▶ text, its name for messages, what relative paths are relative to
//! ```
//!
//! Files that a configuration names are files in all four cases. Those of a configuration that is no file itself are
//! relative to the base directory ([`crate::ProxyService::with_base`]).

mod location;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use handover::{GivenTop, Prepare, Problem};

use crate::config;
pub use location::{Location, LocationError};

/// The name of the built-in configuration in problems.
const BUILT_IN: &str = "the built-in configuration";

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigSource {
    /// This file; relative paths in it are relative to its directory.
    File(PathBuf),
    /// A key in etcd, or a web page.
    Store(Location),
    /// [`config::DEFAULT`].
    BuiltIn,
}

/// A configuration as it was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// Its name for messages.
    pub(crate) name: String,
    pub(crate) bytes: Arc<[u8]>,
}

impl ConfigSource {
    /// What it is called in messages; never anything secret.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            ConfigSource::File(path) => path.display().to_string(),
            ConfigSource::Store(location) => location.to_string(),
            ConfigSource::BuiltIn => BUILT_IN.to_owned(),
        }
    }

    /// Gets the configuration, enters it as the generation's top-level file, and makes relative paths relative to its
    /// directory. `base` is that of a configuration that is no file.
    pub(crate) fn read(&self, cx: &mut Prepare, base: &Path) -> Result<Text, Vec<Problem>> {
        if let Some(given) = cx.given_top() {
            return enter_given(cx, &given, base);
        }
        match self {
            ConfigSource::File(path) => read_file(cx, path),
            ConfigSource::BuiltIn => enter(cx, BUILT_IN, config::DEFAULT.as_bytes(), base),
            ConfigSource::Store(location) => Err(vec![
                Problem::new("a configuration in a store cannot be read yet").in_file(location.to_string()),
            ]),
        }
    }
}

fn read_file(cx: &mut Prepare, path: &Path) -> Result<Text, Vec<Problem>> {
    let name = path.display().to_string();
    let bytes = cx.read_top(path);
    if let Some(directory) = path.parent() {
        cx.set_base(directory);
    }
    match bytes {
        Ok(bytes) => Ok(Text { name, bytes }),
        Err(error) => Err(vec![Problem::new(format!("cannot be read: {error}")).in_file(name)]),
    }
}

/// A generation that is served again has its own top-level file, whatever this server was started with.
fn enter_given(cx: &mut Prepare, given: &GivenTop, base: &Path) -> Result<Text, Vec<Problem>> {
    if given.on_disk {
        read_file(cx, &given.name)
    } else {
        enter(cx, &given.name.display().to_string(), &given.bytes, base)
    }
}

fn enter(cx: &mut Prepare, name: &str, bytes: &[u8], base: &Path) -> Result<Text, Vec<Problem>> {
    cx.set_base(base);
    match cx.built_in_top(name, bytes) {
        Ok(bytes) => Ok(Text { name: name.to_owned(), bytes }),
        Err(error) => Err(vec![Problem::new(format!("cannot be used: {error}")).in_file(name)]),
    }
}
