//! Syntax errors: each one once, and what is not touched by them read all the same.
//!
//! The TOML parser goes on after an error, but where a bracket or a quote is missing it takes what follows for something
//! else, and one slip turns into twenty errors. So after each error the statement that it lies in is blanked out (line
//! breaks stay, so that all places do), and the text is parsed again:
//!
//! ```text
//!  parse ──▶ no error ──────────────────────────────▶ document
//!    ▲  └──▶ first error ─▶ report it
//!    └────── blank out its statement ◀─┘
//! ```
//!
//! What remains is a document in which everything that was understood stands at its place. A header that was not
//! understood gets another one in its place, so that at least the syntax of what stands below it can be checked; the
//! values there are looked at only in the next run.

use std::borrow::Cow;
use std::ops::Range;

use toml::de::{DeTable, DeValue, Error};

use super::sink::{Sink, Span};

/// The most syntax errors that are looked for.
const MAX_ERRORS: usize = 40;
/// What a header that was not understood is replaced with: a list of tables, so that there can be several.
const PLACEHOLDER: &str = "[[\"~\"]]";
/// Its key. What stands below it is not part of the configuration.
pub(super) const NOT_UNDERSTOOD: &str = "~";
/// The most bytes that are parsed to look for further errors.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// Reports the syntax errors of a text. What comes back is the text without them: all places in it are those of the
/// original, and it can be parsed.
pub(super) fn check<'t>(text: &'t str, sink: &mut Sink) -> Cow<'t, str> {
    let mut readable = Cow::Borrowed(text);
    let mut parsed: usize = 0;
    for _ in 0..=MAX_ERRORS {
        let (document, errors) = DeTable::parse_recoverable(&readable);
        let Some(error) = first(errors) else { return readable };
        let statement = Statement::around(&readable, document.get_ref(), &error);
        report(&readable, &statement, &error, sink);
        readable = Cow::Owned(statement.removed_from(&readable));
        parsed = parsed.saturating_add(text.len());
        if parsed > MAX_BYTES {
            break;
        }
    }
    // So much is wrong that the rest is not worth reading.
    Cow::Borrowed("")
}

/// The error that comes first in the text.
fn first(errors: Vec<Error>) -> Option<Error> {
    errors.into_iter().min_by_key(|error| error.span().map(|span| span.start))
}

/// The lines that an error spoils.
struct Statement {
    lines: Range<usize>,
    /// The bracket or quote that is not closed, if that is the error.
    unclosed: Option<Span>,
    /// The end of the first line, if that is a header: the lines that follow belong to it.
    header_end: Option<usize>,
}

impl Statement {
    fn around(text: &str, document: &DeTable<'_>, error: &Error) -> Self {
        let Some(at) = error.span().map(|span| span.start.min(text.len())) else {
            return Self { lines: 0..text.len(), unclosed: None, header_end: None };
        };
        if let Some(value) = value_around(document, at) {
            return Self::of_value(text, value, at);
        }
        let line = line_start(text, at)..line_end(text, at);
        if !text.get(line.clone()).is_some_and(|line| line.trim_start().starts_with('[')) {
            return Self { lines: line, unclosed: None, header_end: None };
        }
        let next = lines_after(text, line.end).find(|next| looks_like_header(&text[next.clone()]));
        let end = next.map_or(text.len(), |next| next.start);
        Self { lines: line.start..end, unclosed: None, header_end: Some(line.end) }
    }

    /// The text with everything but line breaks turned into spaces, or with the header replaced.
    fn removed_from(&self, text: &str) -> String {
        // By bytes, not characters: what is replaced may end within one.
        let spaces = |range: Range<usize>| -> String {
            text.as_bytes()[range].iter().map(|byte| if *byte == b'\n' { '\n' } else { ' ' }).collect()
        };
        let (before, after) = (&text[..self.lines.start], &text[self.lines.end..]);
        let placeholder_end = self.lines.start + PLACEHOLDER.len();
        match self.header_end.filter(|end| *end >= placeholder_end) {
            Some(end) => format!("{before}{PLACEHOLDER}{}{}", spaces(placeholder_end..end), &text[end..]),
            None => format!("{before}{}{after}", spaces(self.lines.clone())),
        }
    }

    /// The value that an error lies in, from the beginning of its first line to its end, or to where the next statement
    /// begins: a value that is not closed seems to reach further than it was meant to.
    fn of_value(text: &str, value: Span, at: usize) -> Self {
        let lines = line_start(text, value.start)..line_end(text, value.start);
        let opened = text.get(value.start..).and_then(|rest| rest.chars().next());
        // `{` at the end of a line announces a table of several lines, whose keys look like statements.
        let on_one_line = text.get(value.start + 1..lines.end).is_some_and(|rest| !rest.trim().is_empty());
        let begins_anew = |line: &str| match opened {
            Some('[') => looks_like_header(line) || looks_like_key(line),
            Some('{') => looks_like_header(line) || on_one_line && looks_like_key(line),
            _ => false,
        };
        let next = lines_after(text, lines.end).find(|line| begins_anew(&text[line.clone()]));
        let next = next.map_or(text.len(), |line| line.start);
        let found_later = at > lines.end;
        let unclosed = match opened {
            Some('[' | '{') => found_later && (value.end > next || value.end == text.len()),
            _ => found_later,
        };
        Self {
            lines: lines.start..line_end(text, value.end.max(at)).min(next.max(lines.end)),
            unclosed: unclosed.then_some(Span { start: value.start, end: value.start + 1 }),
            header_end: None,
        }
    }
}

/// The outermost value that belongs to a key and has a place in it.
fn value_around(table: &DeTable<'_>, at: usize) -> Option<Span> {
    let mut found: Option<Span> = None;
    let mut tables = vec![table];
    while let Some(table) = tables.pop() {
        for (key, value) in table {
            let span = value.span();
            let is_header = span.start <= key.span().start;
            match value.get_ref() {
                DeValue::Table(inner) if is_header => tables.push(inner),
                DeValue::Array(nodes) if is_header => {
                    tables.extend(nodes.iter().filter_map(|node| node.get_ref().as_table()));
                }
                // One after the end: what is missing there is found there.
                _ if span.start <= at && at <= span.end => {
                    let outer = found.is_none_or(|found| span.start < found.start);
                    if outer {
                        found = Some(span.into());
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn report(text: &str, statement: &Statement, error: &Error, sink: &mut Sink) {
    if let Some(open) = statement.unclosed {
        let opened = text.get(open.start..).unwrap_or_default();
        let (what, close) = match opened.chars().next() {
            Some('{') => ("table", "}"),
            Some('[') => ("list", "]"),
            _ => ("text", opened.get(..3).unwrap_or("\"\"\"")),
        };
        sink.syntax(Some(open), format!("this {what} is not closed"))
            .help(format!("add the missing {close}"));
        return;
    }
    let span = error.span().map(Span::from);
    let word = span.and_then(|span| text.get(span.start..span.end)).unwrap_or_default();
    let message = error.message();
    if message.starts_with("string values must be quoted") && word.is_empty() {
        sink.syntax(span, "a value is missing".to_owned());
    } else if message.starts_with("string values must be quoted") {
        sink.syntax(span, "a text must stand in quotes".to_owned()).help(format!("write {word:?}"));
    } else if message.starts_with("unclosed table") {
        sink.syntax(span, "this header is not closed".to_owned()).help("add the missing ]");
    } else if message == "invalid basic string, expected `\"`" {
        sink.syntax(span, "this text is not closed".to_owned()).help("add the missing \"");
    } else if message.starts_with("unexpected key or value") {
        sink.syntax(span, "this does not belong here: the line was complete before it".to_owned());
    } else if message == "duplicate key" {
        sink.syntax(span, format!("the key {word:?} is there already"));
    } else {
        sink.syntax(span, message.replace(", expected nothing", ""));
    }
}

fn line_start(text: &str, at: usize) -> usize {
    memchr::memrchr(b'\n', &text.as_bytes()[..at.min(text.len())]).map_or(0, |at| at + 1)
}

/// The end of a line, its line break not included.
fn line_end(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    memchr::memchr(b'\n', &text.as_bytes()[at..]).map_or(text.len(), |end| at + end)
}

/// The lines that begin after the one that ends at `end`.
fn lines_after(text: &str, end: usize) -> impl Iterator<Item = Range<usize>> {
    let mut next = end + 1;
    std::iter::from_fn(move || {
        if next >= text.len() {
            return None;
        }
        let line = next..line_end(text, next);
        next = line.end + 1;
        Some(line)
    })
}

/// `[listeners.web]`, `[[routes]]`: what cannot be an element of a list.
fn looks_like_header(line: &str) -> bool {
    let line = line.split('#').next().unwrap_or_default().trim();
    let inner = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
    let Some(inner) = inner else { return false };
    let inner = inner.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(inner);
    let bare = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'"' | b'\'' | b' ');
    inner.starts_with(|first: char| first.is_ascii_alphabetic()) && inner.bytes().all(bare)
}

/// `address = …`, `limits.connections = …`.
fn looks_like_key(line: &str) -> bool {
    let Some((key, _)) = line.split_once('=') else { return false };
    let key = key.trim();
    !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}
