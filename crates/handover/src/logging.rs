//! Where log lines go: one place for the command line, the supervisor, the worker and embedding programs.
//!
//! ```text
//!   tracing events ─▶ level filter ─▶ text or JSON lines ─▶ stderr, stdout
//!                                                        └▶ file (O_APPEND), opened again on USR1
//! ```
//!
//! [`init`] once at start; [`open`] may fail and belongs into prepare; [`switch`] cannot fail and belongs into
//! commit; [`reopen`] follows a log rotation: if the new file cannot be opened, lines go on into the old one.
//!
//! The level is that of the [`Options`], unless the environment variable `HANDOVER_LOG` says one: `debug`, or
//! `info,handover_proxy=trace`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use rustix::fs::OFlags;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layered, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry, reload};

use crate::types::{LogSettings, LogTarget};

/// Environment variable with the level filter, e.g. `info` or `warn,handover_proxy=debug`.
pub const LEVEL_VARIABLE: &str = "HANDOVER_LOG";

/// Mode of a log file that did not exist: its owner writes, its group may read.
const FILE_MODE: u32 = 0o640;

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people: time, level, message, fields.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where to and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Options {
    /// How a line looks.
    pub format: Format,
    /// Where lines go.
    pub to: LogTarget,
    /// The least severe lines that are written; `None` is info. [`LEVEL_VARIABLE`] comes first.
    pub level: Option<Level>,
}

impl From<&LogSettings> for Options {
    fn from(settings: &LogSettings) -> Self {
        Self {
            format: if settings.json { Format::Json } else { Format::Text },
            to: settings.to.clone(),
            level: settings.level.as_deref().and_then(|level| level.parse().ok()),
        }
    }
}

/// A log file that cannot be opened. What was logged to before goes on.
#[derive(Debug, thiserror::Error)]
#[error("could not open the log file {path}: {source}", path = .path.display())]
pub struct LogError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// A destination that is open already, so that [`switch`] to it cannot fail.
#[derive(Debug)]
pub struct Sink {
    format: Format,
    out: Out,
    level: Option<Level>,
}

/// Opens what `options` name; nothing is logged there yet.
///
/// # Errors
/// When the file cannot be opened for appending.
pub fn open(options: &Options) -> Result<Sink, LogError> {
    let out = match &options.to {
        LogTarget::Stderr => Out::Stderr,
        LogTarget::Stdout => Out::Stdout,
        LogTarget::File(path) => Out::File { path: path.clone(), file: open_file(path)? },
    };
    Ok(Sink { format: options.format, out, level: options.level })
}

/// Starts logging. The first call of the process decides whether this library logs at all:
/// a subscriber that the program has set already stays, and is left alone by [`switch`] and [`reopen`] too.
/// Later calls are [`switch`].
///
/// # Errors
/// When the file cannot be opened; then nothing has changed.
pub fn init(options: &Options) -> Result<(), LogError> {
    switch(open(options)?);
    Ok(())
}

/// Logs text to stderr, unless the process logs somewhere already.
pub(crate) fn start_default() {
    if STATE.get().is_none() {
        start(Sink { format: Format::Text, out: Out::Stderr, level: None });
    }
}

/// Logs to `sink` from now on.
pub fn switch(sink: Sink) {
    match STATE.get() {
        Some(state) => state.switch(sink),
        None => start(sink),
    }
}

/// Opens the log file again by its name, after it was moved away by a rotation. Nothing to do for stderr and stdout.
///
/// # Errors
/// When it cannot be opened; lines go on into the file that was open.
pub fn reopen() -> Result<(), LogError> {
    let Some(state) = STATE.get() else { return Ok(()) };
    let current = state.writer.0.load_full();
    if let Out::File { path, .. } = &*current {
        state.writer.0.store(Arc::new(Out::File { path: path.clone(), file: open_file(path)? }));
    }
    Ok(())
}

fn open_file(path: &Path) -> Result<File, LogError> {
    use std::os::unix::fs::OpenOptionsExt as _;
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(FILE_MODE)
        // A FIFO that nobody reads is refused; opening it would wait for a reader, and writing to it must not.
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)
        .map_err(|source| LogError { path: path.to_owned(), source })
}

static STATE: OnceLock<State> = OnceLock::new();

type Lines = Box<dyn Layer<Registry> + Send + Sync>;
type WithLines = Layered<reload::Layer<Lines, Registry>, Registry>;

struct State {
    lines: reload::Handle<Lines, Registry>,
    levels: reload::Handle<Targets, WithLines>,
    writer: Writer,
}

impl State {
    fn switch(&self, Sink { format, out, level }: Sink) {
        let terminal = out.is_terminal();
        self.writer.0.store(Arc::new(out));
        // Both fail only if the subscriber is gone, and then nobody logs. What is wrong with the variable was said at start.
        let _ = self.lines.reload(lines(format, terminal, self.writer.clone()));
        let _ = self.levels.reload(levels(asked().as_deref(), level).0);
    }
}

/// The filter that the environment asks for.
fn asked() -> Option<String> {
    std::env::var(LEVEL_VARIABLE).ok()
}

fn start(Sink { format, out, level }: Sink) {
    let terminal = out.is_terminal();
    let writer = Writer(Arc::new(ArcSwap::from_pointee(out)));
    let (layer, line_handle) = reload::Layer::new(lines(format, terminal, writer.clone()));
    let (levels, mistake) = levels(asked().as_deref(), level);
    let (filter, level_handle) = reload::Layer::new(levels);
    let subscriber = Registry::default().with(layer).with(filter);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return; // the program has its own, and keeps it
    }
    let _ = STATE.set(State { lines: line_handle, levels: level_handle, writer });
    if let Some(mistake) = mistake {
        tracing::warn!("{LEVEL_VARIABLE} is not understood and not followed: {mistake}");
    }
}

/// The level filter: what is asked for, else `level`; and what was wrong with what was asked for.
fn levels(asked: Option<&str>, level: Option<Level>) -> (Targets, Option<String>) {
    let otherwise = || Targets::new().with_default(level.unwrap_or(Level::INFO));
    match asked.map(str::parse::<Targets>) {
        None => (otherwise(), None),
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (otherwise(), Some(error.to_string())),
    }
}

/// The layer that writes lines. Spans are not printed in JSON: those opened before a change of format would
/// lack the fields that the new formatter looks for.
fn lines(format: Format, terminal: bool, writer: Writer) -> Lines {
    let layer = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
    match format {
        Format::Text => Box::new(layer.with_ansi(terminal).with_target(false)),
        Format::Json => Box::new(
            layer.json().with_current_span(false).with_span_list(false).flatten_event(true).with_ansi(false),
        ),
    }
}

#[derive(Debug)]
enum Out {
    Stderr,
    Stdout,
    File { path: PathBuf, file: File },
}

impl Out {
    fn is_terminal(&self) -> bool {
        match self {
            Self::Stderr => io::stderr().is_terminal(),
            Self::Stdout => io::stdout().is_terminal(),
            Self::File { .. } => false,
        }
    }
}

/// What log lines are written through. One line is one `write`, so that lines of several processes that append to
/// the same file do not mix.
#[derive(Clone)]
struct Writer(Arc<ArcSwap<Out>>);

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.load().fmt(f)
    }
}

/// The destination as it was when one line began.
#[derive(Debug)]
struct OneLine(Arc<Out>);

impl<'a> MakeWriter<'a> for Writer {
    type Writer = OneLine;

    fn make_writer(&'a self) -> OneLine {
        OneLine(self.0.load_full())
    }
}

impl Write for OneLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &*self.0 {
            Out::Stderr => io::stderr().write(bytes),
            // Holds a line back until it ends, so that it goes out in one write.
            Out::Stdout => io::stdout().write(bytes),
            Out::File { file, .. } => (&*file).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &*self.0 {
            Out::Stdout => io::stdout().flush(),
            Out::Stderr | Out::File { .. } => Ok(()), // nothing is held back
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_not_understood_falls_back_to_info_and_says_so() {
        let (targets, mistake) = levels(Some("handover=loud"), None);
        assert!(mistake.is_some());
        assert!(targets.would_enable("handover", &Level::INFO));
        assert!(!targets.would_enable("handover", &Level::DEBUG));
        let (targets, mistake) = levels(Some("warn,handover_proxy=debug"), Some(Level::TRACE));
        assert_eq!(mistake, None);
        assert!(targets.would_enable("handover_proxy", &Level::DEBUG));
        assert!(!targets.would_enable("handover", &Level::INFO));
    }

    /// One test, because the subscriber belongs to the whole process.
    #[test]
    fn lines_follow_a_switch_and_a_rotation_and_stay_where_they_are_if_it_fails() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first.log"), directory.path().join("second.log"));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let to = |format, path: &Path, level| Options { format, to: LogTarget::File(path.to_owned()), level };
        init(&to(Format::Text, &first, None)).unwrap();
        tracing::info!(answer = 42, "one");
        assert!(read(&first).contains("one answer=42"), "{}", read(&first));
        assert!(!read(&first).contains('\u{1b}'), "no colours in a file");

        let lost = directory.path().join("nowhere").join("lost.log");
        let error = init(&to(Format::Text, &lost, None)).unwrap_err();
        assert!(error.to_string().contains("lost.log"), "{error}");
        tracing::info!("two");
        assert!(read(&first).contains("two"));

        init(&to(Format::Json, &second, None)).unwrap();
        tracing::info!(answer = 43, "three");
        let line: serde_json::Value = serde_json::from_str(read(&second).trim()).unwrap();
        assert_eq!((&line["message"], &line["answer"]), (&"three".into(), &43.into()));
        assert!(!read(&first).contains("three"));

        let rotated = directory.path().join("second.log.1");
        std::fs::rename(&second, &rotated).unwrap();
        tracing::info!("four");
        assert!(read(&rotated).contains("four"), "the open file is written until it is opened again");
        reopen().unwrap();
        tracing::info!("five");
        assert!(read(&second).contains("five") && !read(&rotated).contains("five"));

        std::fs::rename(&second, &rotated).unwrap();
        std::fs::create_dir(&second).unwrap();
        assert!(reopen().is_err(), "a directory cannot be opened for appending");
        tracing::info!("six");
        assert!(read(&rotated).contains("six"), "lines go on into the old file");

        let debugging = LogSettings { level: Some("debug".to_owned()), ..LogSettings::default() };
        let debugging = Options { to: LogTarget::File(first.clone()), ..Options::from(&debugging) };
        for (options, expected) in [
            (to(Format::Text, &first, Some(Level::WARN)), false),
            (debugging, true),
            (to(Format::Text, &first, None), false),
        ] {
            std::fs::write(&first, "").unwrap();
            init(&options).unwrap();
            tracing::debug!("seven");
            tracing::warn!("eight");
            assert_eq!(read(&first).contains("seven"), expected, "{options:?}");
            assert!(read(&first).contains("eight"));
        }
    }
}
