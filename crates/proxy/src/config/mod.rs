//! The configuration: one TOML file, checked as a whole before anything of it is used.

mod diff;
mod model;
mod resolve;
mod spans;

use std::io;
use std::path::Path;
use std::sync::Arc;

use handover_api::Problem;

pub use diff::diff;
pub use model::*;
pub use resolve::{Resolve, SystemResolver};
pub use spans::Spans;

/// What `handover serve` without a file serves: a fixed "Hello, World!" on 127.0.0.1:8080.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// A configuration that can be served.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What it says.
    pub config: Config,
    /// What is odd about it, but no reason to refuse it.
    pub warnings: Vec<Problem>,
    /// Where in the file it says it: for problems that show only later, such as a port in use.
    pub spans: Spans,
}

/// Reads a file that the configuration names: from disk, or from a generation's bundle.
pub type Read<'a> = &'a mut dyn FnMut(&Path) -> io::Result<Arc<[u8]>>;

/// Parses and checks a configuration.
///
/// `name` is the file's name as it stands in problems, `base` the directory that relative paths in it are relative to
/// (absolute, usually the file's own), `text` its bytes.
///
/// # Errors
/// Every mistake in the file at once, in the order in which they stand there; never an empty list.
pub fn parse(
    name: &str,
    base: &Path,
    text: &[u8],
    read: Read<'_>,
    resolve: &mut dyn Resolve,
) -> Result<Checked, Vec<Problem>> {
    let _ = (base, text, read, resolve);
    Err(vec![Problem::new("the configuration cannot be read yet").in_file(name)])
}

/// The JSON Schema (2020-12) of the configuration file, for editors: `handover schema`.
#[must_use]
pub fn schema() -> serde_json::Value {
    serde_json::Value::Null
}
