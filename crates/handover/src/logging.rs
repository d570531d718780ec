//! Where log lines go: one place for the command line, the supervisor, the worker and embedding programs.
//!
//! ```text
//!   tracing events ─▶ level filter ─▶ text or JSON lines ─▶ stderr
//!                                                        └▶ file (O_APPEND), opened again on USR1
//! ```
//!
//! [`init`] once at start; [`open`] may fail and belongs into prepare; [`switch`] cannot fail and belongs into
//! commit; [`reopen`] follows a log rotation: if the new file cannot be opened, lines go on into the old one.
//!
//! The level comes from the environment variable `HANDOVER_LOG`: `debug`, or `info,handover_proxy=trace`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal as _, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer, Registry, reload};

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
    /// A file to append to; `None` is stderr.
    pub file: Option<PathBuf>,
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
}

/// Opens what `options` name; nothing is logged there yet.
///
/// # Errors
/// When the file cannot be opened for appending.
pub fn open(options: &Options) -> Result<Sink, LogError> {
    let out = match &options.file {
        None => Out::Stderr,
        Some(path) => Out::File { path: path.clone(), file: open_file(path)? },
    };
    Ok(Sink { format: options.format, out })
}

/// Starts logging to stderr or a file. The first call of the process decides whether this library logs at all:
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
        start(Format::Text, Out::Stderr);
    }
}

/// Logs to `sink` from now on.
pub fn switch(sink: Sink) {
    let Sink { format, out } = sink;
    match STATE.get() {
        Some(state) => state.switch(format, out),
        None => start(format, out),
    }
}

/// Opens the log file again by its name, after it was moved away by a rotation. Nothing to do for stderr.
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
        .open(path)
        .map_err(|source| LogError { path: path.to_owned(), source })
}

static STATE: OnceLock<State> = OnceLock::new();

type Lines = Box<dyn Layer<Registry> + Send + Sync>;

struct State {
    lines: reload::Handle<Lines, Registry>,
    writer: Writer,
}

impl State {
    fn switch(&self, format: Format, out: Out) {
        let terminal = out.is_terminal();
        self.writer.0.store(Arc::new(out));
        // Fails only if the subscriber is gone, and then nobody logs.
        let _ = self.lines.reload(lines(format, terminal, self.writer.clone()));
    }
}

fn start(format: Format, out: Out) {
    let terminal = out.is_terminal();
    let writer = Writer(Arc::new(ArcSwap::from_pointee(out)));
    let (layer, handle) = reload::Layer::new(lines(format, terminal, writer.clone()));
    let (levels, mistake) = levels(std::env::var(LEVEL_VARIABLE).ok().as_deref());
    let subscriber = Registry::default().with(layer).with(levels);
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        return; // the program has its own, and keeps it
    }
    let _ = STATE.set(State { lines: handle, writer });
    if let Some(mistake) = mistake {
        tracing::warn!("{LEVEL_VARIABLE} is not understood, logging at level info: {mistake}");
    }
}

/// The level filter, and what was wrong with the text it was asked for by.
fn levels(asked: Option<&str>) -> (Targets, Option<String>) {
    let info = || Targets::new().with_default(tracing::Level::INFO);
    match asked.map(str::parse::<Targets>) {
        None => (info(), None),
        Some(Ok(targets)) => (targets, None),
        Some(Err(error)) => (info(), Some(error.to_string())),
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
    File { path: PathBuf, file: File },
}

impl Out {
    fn is_terminal(&self) -> bool {
        matches!(self, Self::Stderr) && io::stderr().is_terminal()
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
            Out::File { file, .. } => (&*file).write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(()) // neither stderr nor a file holds anything back
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_that_is_not_understood_falls_back_to_info_and_says_so() {
        let (targets, mistake) = levels(Some("handover=loud"));
        assert!(mistake.is_some());
        assert!(targets.would_enable("handover", &tracing::Level::INFO));
        assert!(!targets.would_enable("handover", &tracing::Level::DEBUG));
        let (targets, mistake) = levels(Some("warn,handover_proxy=debug"));
        assert_eq!(mistake, None);
        assert!(targets.would_enable("handover_proxy", &tracing::Level::DEBUG));
        assert!(!targets.would_enable("handover", &tracing::Level::INFO));
    }

    /// One test, because the subscriber belongs to the whole process.
    #[test]
    fn lines_follow_a_switch_and_a_rotation_and_stay_where_they_are_if_it_fails() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("first.log"), directory.path().join("second.log"));
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        init(&Options { format: Format::Text, file: Some(first.clone()) }).unwrap();
        tracing::info!(answer = 42, "one");
        assert!(read(&first).contains("one answer=42"), "{}", read(&first));
        assert!(!read(&first).contains('\u{1b}'), "no colours in a file");

        let lost = directory.path().join("nowhere").join("lost.log");
        let error = init(&Options { format: Format::Text, file: Some(lost) }).unwrap_err();
        assert!(error.to_string().contains("lost.log"), "{error}");
        tracing::info!("two");
        assert!(read(&first).contains("two"));

        init(&Options { format: Format::Json, file: Some(second.clone()) }).unwrap();
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
    }
}
