//! The configuration: one TOML file, checked as a whole before anything of it is used.
//!
//! ```text
//!  bytes ─▶ TOML document ─▶ raw types ─▶ checks ─▶ Config ─▶ route tables
//!            toml            decode, raw   check     model     crate::routes
//!              │                │            │                     │
//!              └── syntax ──────┴─ keys, ────┴─ names, files, ─────┴─ conflicts ─▶ Sink ─▶ Vec<Problem>
//!                                  types,       addresses
//!                                  bounds
//! ```
//!
//! No stage stops at a mistake: it is reported with its place, and the rest is read on, so that one run tells everything
//! that is wrong with a file. Only a file without any is turned into a [`Checked`]. Raw and validated types are two: the
//! raw ones mirror what can be written (and yield [`schema`]), the validated ones ([`Config`] and what it consists of)
//! cannot be wrong.
//!
//! Files that the configuration names are read through the [`Files`] given to [`parse`] and nothing else, so that they
//! become part of the generation; names are resolved through [`Resolve`].

mod address;
mod check;
mod decode;
mod diff;
mod model;
mod model_programs;
mod model_tls;
mod raw;
mod raw_programs;
mod raw_tls;
mod raw_upgrade;
mod resolve;
mod schema;
mod share;
mod sink;
mod spans;
mod syntax;
mod values;
mod values_programs;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use handover_api::Problem;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use decode::Decode as _;
use sink::{MAX_PROBLEMS, Report, Severity, Sink};
use spans::Text;

pub use diff::diff;
pub use model::*;
pub use resolve::{Account, Addresses, Resolve, SystemResolver, Whom};
pub use schema::schema;
pub use spans::Spans;

use crate::routes::Routes;

/// What `handover serve` without a file serves: a fixed "Hello, World!" on 127.0.0.1:8080.
pub const DEFAULT: &str = include_str!("../../config/default.toml");

/// The largest configuration file, in bytes: room for some hundred thousand routes.
pub const MAX_CONFIG_BYTES: usize = 32 * 1024 * 1024;

/// A configuration that can be served.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What it says.
    pub config: Config,
    /// Its routes, ready to be looked up.
    pub routes: Routes,
    /// What is odd about it, but no reason to refuse it.
    pub warnings: Vec<Problem>,
    /// Where in the file it says it: for problems that show only later, such as a port in use.
    pub spans: Spans,
}

/// Where the bytes of files come from that the configuration names: the disk, a generation's bundle, a test's map. Every
/// function `FnMut(&Path) -> io::Result<Arc<[u8]>>` is one.
pub trait Files {
    /// The bytes of a file.
    ///
    /// # Errors
    /// As from the system; what comes is shown to people.
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>>;

    /// The same for certificates, keys and authorities: `reload --certs` reads those anew, and nothing else.
    ///
    /// # Errors
    /// As [`Files::read`].
    fn read_certificate(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.read(path)
    }

    /// The permission bits of a key's file, to warn where others can read it; `None` where they say nothing, as in a
    /// bundle.
    fn mode(&mut self, path: &Path) -> Option<u32> {
        let _ = path;
        None
    }

    /// What stands at a path, to refuse a program that could not be started; `None` where nobody is to look, as when a
    /// generation is served again.
    fn stands(&mut self, path: &Path) -> Option<Standing> {
        let _ = path;
        None
    }
}

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing, or nothing that this process can see.
    Nothing,
    /// A directory.
    Directory,
    /// A file that somebody may execute.
    Executable,
    /// Something else.
    Other,
}

impl Standing {
    /// What stands there on the disk, links followed.
    #[must_use]
    pub fn on_disk(path: &Path) -> Self {
        /// Anybody may execute it (inode(7)).
        const EXECUTE: u32 = 0o111;
        match std::fs::metadata(path) {
            Err(_) => Self::Nothing,
            Ok(found) if found.is_dir() => Self::Directory,
            Ok(found) if found.is_file() && found.mode() & EXECUTE != 0 => Self::Executable,
            Ok(_) => Self::Other,
        }
    }
}

impl<F: FnMut(&Path) -> io::Result<Arc<[u8]>>> Files for F {
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self(path)
    }
}

/// When, and beside what, a configuration is checked.
#[derive(Debug, Clone, Copy)]
pub struct Moment<'a> {
    /// The time that certificates must be valid at.
    pub now: SystemTime,
    /// What serves. Certificates whose files did not change are taken from it, and may have expired meanwhile.
    pub serving: Option<&'a Config>,
    /// True at a start, and where a generation is to be served again: then an expired certificate is better than none,
    /// and only warned about.
    pub lenient: bool,
}

impl Moment<'_> {
    /// Now, while nothing serves.
    #[must_use]
    pub fn start() -> Self {
        Self { now: SystemTime::now(), serving: None, lenient: true }
    }
}

/// Parses and checks a configuration that is to be served first: [`parse_beside`] nothing.
///
/// # Errors
/// As [`parse_beside`].
pub fn parse(
    name: &str,
    base: &Path,
    text: &[u8],
    files: &mut dyn Files,
    resolve: &mut dyn Resolve,
) -> Result<Checked, Vec<Problem>> {
    parse_beside(name, base, text, files, resolve, Moment::start())
}

/// Parses and checks a configuration.
///
/// `name` is the file's name as it stands in problems, `base` the directory that relative paths in it are relative to
/// (absolute, usually the file's own), `text` its bytes.
///
/// # Errors
/// Every mistake in the file at once, in the order in which they stand there; never an empty list.
pub fn parse_beside(
    name: &str,
    base: &Path,
    text: &[u8],
    files: &mut dyn Files,
    resolve: &mut dyn Resolve,
    moment: Moment<'_>,
) -> Result<Checked, Vec<Problem>> {
    if text.len() > MAX_CONFIG_BYTES {
        let detail = format!("the file has {} bytes, and at most {MAX_CONFIG_BYTES} are read", text.len());
        return Err(vec![Problem::new(detail).in_file(name)]);
    }
    let text = std::str::from_utf8(text).map_err(|error| vec![not_utf8(name, text, error.valid_up_to())])?;
    let mut sink = Sink::default();

    // Parsed once if nothing is wrong: then the first pass is the one that counts.
    let (document, errors) = DeTable::parse_recoverable(text);
    let readable: Cow<'_, str>;
    let document = if errors.is_empty() {
        document
    } else {
        drop(document);
        readable = syntax::check(text, &mut sink);
        let mut document = DeTable::parse_recoverable(&readable).0;
        document.get_mut().remove(syntax::NOT_UNDERSTOOD);
        document
    };
    let root = Spanned::new(document.span(), DeValue::Table(document.into_inner()));
    let raw = raw::RawConfig::decode(&root, &mut sink).unwrap_or_default();
    let outcome = check::check(raw, &mut check::Cx::new(&mut sink, base, files, resolve, moment));

    let beyond = (sink.beyond(Severity::Error), sink.beyond(Severity::Warning));
    let reports = sink.into_reports();
    let empty = DeTable::new();
    let document = root.get_ref().as_table().unwrap_or(&empty);
    let render = |reports: &[Report]| match reports {
        [] => Vec::new(),
        reports => Text::new(name, text).problems(reports, document),
    };
    let (errors, warnings): (Vec<Report>, Vec<Report>) =
        reports.into_iter().partition(|report| report.severity == Severity::Error);
    if !errors.is_empty() {
        return Err(bounded(name, errors, beyond.0, render));
    }
    let warnings = bounded(name, warnings, beyond.1, render);
    Ok(Checked { config: outcome.config, routes: outcome.routes, warnings, spans: Spans::new(name, text) })
}

/// Renders the first [`MAX_PROBLEMS`], and says how many more there are, `beyond` of which were not even kept.
fn bounded(
    name: &str,
    mut reports: Vec<Report>,
    beyond: usize,
    render: impl Fn(&[Report]) -> Vec<Problem>,
) -> Vec<Problem> {
    let more = reports.len().saturating_sub(MAX_PROBLEMS) + beyond;
    reports.truncate(MAX_PROBLEMS);
    let mut problems = render(&reports);
    if more > 0 {
        problems.push(Problem::new(format!("{more} more problems are not shown")).in_file(name));
    }
    problems
}

/// A file that is not text.
fn not_utf8(name: &str, text: &[u8], at: usize) -> Problem {
    let before = String::from_utf8_lossy(text.get(..at).unwrap_or_default());
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Problem::new("the file is not UTF-8 text from here on").in_file(name).at(number(line), number(column))
}
