//! Places in the text: from byte ranges to line, column, pointer and excerpt, and back from a pointer to its place.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{Annotation, AnnotationKind, Group, Level, Renderer, Snippet};
use handover_api::Problem;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::sink::{Report, Span};

/// Lines between two places up to which one excerpt shows both.
const NEAR_LINES: usize = 12;
/// The longest text beside a caret.
const MAX_LABEL_CHARS: usize = 80;
/// Columns of an excerpt: longer lines are shown in part.
const EXCERPT_COLUMNS: usize = 120;
/// The most bytes of a line that are looked at for an excerpt: what lies far from the place is cut off first.
const MAX_EXCERPT_BYTES: usize = 4096;

/// The text of a checked configuration, kept aside so that what goes wrong later can still point into it.
#[derive(Debug, Clone)]
pub struct Spans {
    name: Arc<str>,
    text: Arc<str>,
}

impl Spans {
    pub(super) fn new(name: &str, text: &str) -> Self {
        Self { name: name.into(), text: text.into() }
    }

    /// A problem with the value at `pointer` (RFC 6901), e.g. `/listeners/web/address/0`; where the file does not
    /// have that value, with the nearest table around it.
    #[must_use]
    pub fn problem(&self, pointer: &str, detail: &str) -> Problem {
        // Seldom asked for: parsing again costs less than keeping the place of every value.
        let (document, _) = DeTable::parse_recoverable(&self.text);
        let text = Text::new(&self.name, &self.text);
        let mut problem = match find(document.get_ref(), pointer) {
            Some(span) => text.problem_at(span, None, detail),
            None => Problem::new(detail).in_file(&*self.name),
        };
        problem.pointer = Some(pointer.to_owned());
        problem
    }

    /// A problem with address number `index` of a listener, e.g. that its port is in use.
    #[must_use]
    pub fn problem_for_listener(&self, listener: &str, index: usize, detail: &str) -> Problem {
        self.problem(&format!("/listeners/{}/address/{index}", escape(listener)), detail)
    }

    /// A problem with address number `index` of a program, e.g. that its port is in use.
    #[must_use]
    pub fn problem_for_program(&self, program: &str, index: usize, detail: &str) -> Problem {
        self.problem(&format!("/program/{}/listen/{index}", escape(program)), detail)
    }

    /// A problem with address number `index` at which metrics are served.
    #[must_use]
    pub fn problem_for_metrics(&self, index: usize, detail: &str) -> Problem {
        self.problem(&format!("/metrics/address/{index}"), detail)
    }
}

/// A file's text with its lines.
pub(super) struct Text<'t> {
    name: &'t str,
    text: &'t str,
    /// Where each line begins.
    lines: Vec<usize>,
}

impl<'t> Text<'t> {
    pub(super) fn new(name: &'t str, text: &'t str) -> Self {
        let lines =
            std::iter::once(0).chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1)).collect();
        Self { name, text, lines }
    }

    /// Renders reports. `document` tells which value each place belongs to.
    pub(super) fn problems(&self, reports: &[Report], document: &DeTable<'_>) -> Vec<Problem> {
        // Where the syntax is broken, entries of lists may be missing in the document: then pointers would be wrong.
        let understood = !reports.iter().any(|report| report.syntax);
        let wanted = reports.iter().filter(|_| understood).filter_map(|report| report.span);
        let pointers = pointers(document, wanted);
        let render = |report: &Report| {
            let mut problem = match report.span {
                Some(span) => self.problem_at(span, report.also.as_ref(), &report.detail),
                None => Problem::new(report.detail.as_str()).in_file(self.name),
            };
            problem.help.clone_from(&report.help);
            problem.pointer = report.span.and_then(|span| pointers.get(&span).cloned());
            problem
        };
        reports.iter().map(render).collect()
    }

    fn problem_at(&self, span: Span, also: Option<&(Span, String)>, detail: &str) -> Problem {
        let span = self.on_one_line(span);
        let line = self.line_of(span.start);
        let before = self.text.get(self.line_range(line).start..span.start).unwrap_or_default();
        let number = |count: usize| u32::try_from(count + 1).unwrap_or(u32::MAX);
        Problem {
            excerpt: Some(self.excerpt(span, also)),
            ..Problem::new(detail).in_file(self.name).at(number(line), number(before.chars().count()))
        }
    }

    /// The part of a span that lies on its first line, on character boundaries and inside the text.
    fn on_one_line(&self, span: Span) -> Span {
        let mut start = span.start.min(self.text.len());
        while !self.text.is_char_boundary(start) {
            start -= 1;
        }
        let line = self.line_range(self.line_of(start));
        let start = start.min(line.end);
        let mut end = span.end.clamp(start, line.end);
        while !self.text.is_char_boundary(end) {
            end += 1;
        }
        Span { start, end }
    }

    fn line_of(&self, offset: usize) -> usize {
        self.lines.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// A line without its line break.
    fn line_range(&self, line: usize) -> Range<usize> {
        let start = self.lines.get(line).copied().unwrap_or(self.text.len());
        let end = self.lines.get(line + 1).map_or(self.text.len(), |next| next - 1);
        let with_return = self.text.get(start..end).is_some_and(|line| line.ends_with('\r'));
        start..end - usize::from(with_return)
    }

    /// The lines of a place with carets under it, and of another place that has to do with it.
    fn excerpt(&self, span: Span, also: Option<&(Span, String)>) -> String {
        let line = self.line_of(span.start);
        let also = also.map(|(other, label)| {
            let other = self.on_one_line(*other);
            (other, self.line_of(other.start), label.as_str())
        });
        let group = Group::with_level(Level::ERROR);
        let group = match also {
            Some((other, at, label)) if at.abs_diff(line) <= NEAR_LINES && self.is_short(line, at) => {
                let (first, last) = (line.min(at), line.max(at));
                let part = self.line_range(first).start..self.line_range(last).end;
                let source = self.text.get(part.clone()).unwrap_or_default();
                let within = |span: Span| span.start - part.start..span.end - part.start;
                let there = AnnotationKind::Context.span(within(other)).label(shortened(label));
                let here = AnnotationKind::Primary.span(within(span));
                group.element(Snippet::source(source).line_start(first + 1).annotations([here, there]))
            }
            Some((other, at, label)) => group
                .element(self.snippet(line, span, AnnotationKind::Primary, None))
                .element(self.snippet(at, other, AnnotationKind::Context, Some(label))),
            None => group.element(self.snippet(line, span, AnnotationKind::Primary, None)),
        };
        let rendered = Renderer::plain().term_width(EXCERPT_COLUMNS).render(&[group]);
        rendered.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }

    /// Are the lines from one to the other short enough to be shown whole?
    fn is_short(&self, line: usize, other: usize) -> bool {
        let (first, last) = (line.min(other), line.max(other));
        self.line_range(last).end - self.line_range(first).start <= MAX_EXCERPT_BYTES
    }

    /// One line, with a span of it marked.
    fn snippet(
        &self,
        line: usize,
        span: Span,
        kind: AnnotationKind,
        label: Option<&str>,
    ) -> Snippet<'_, Annotation<'_>> {
        let mut range = self.line_range(line);
        let boundary = |mut at: usize| {
            while !self.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        if range.len() > MAX_EXCERPT_BYTES {
            range.start = boundary(range.start.max(span.start.saturating_sub(MAX_EXCERPT_BYTES / 2)));
            range.end = boundary(range.end.min(range.start + MAX_EXCERPT_BYTES));
        }
        let source = self.text.get(range.clone()).unwrap_or_default();
        let start = span.start.clamp(range.start, range.end) - range.start;
        let end = span.end.clamp(range.start, range.end) - range.start;
        Snippet::source(source)
            .line_start(line + 1)
            .annotation(kind.span(start..end).label(label.map(shortened)))
    }
}

fn shortened(label: &str) -> String {
    label.chars().take(MAX_LABEL_CHARS).collect()
}

/// A step from a table or an array to a value in it.
#[derive(Clone, Copy)]
enum Step<'d> {
    Key(&'d str),
    Index(usize),
}

/// The way from the root of a document to a value in it.
fn pointer(steps: &[Step<'_>]) -> String {
    let mut pointer = String::new();
    for step in steps {
        let _ = match step {
            Step::Key(key) => write!(pointer, "/{}", escape(key)),
            Step::Index(index) => write!(pointer, "/{index}"),
        };
    }
    pointer
}

/// JSON Pointers of values, by the places of the values and of their keys.
fn pointers(document: &DeTable<'_>, wanted: impl Iterator<Item = Span>) -> HashMap<Span, String> {
    // A list, not a set: mostly there is a place or two to be found among a hundred thousand.
    let mut wanted: Vec<Span> = wanted.collect();
    wanted.sort_unstable();
    let mut found = HashMap::new();
    if !wanted.is_empty() {
        walk_table(document, &mut Vec::new(), &mut |span, steps| {
            // A header stands for an array of tables and for its first table: the innermost comes last and stays.
            if wanted.binary_search(&span).is_ok() {
                found.insert(span, pointer(steps));
            }
        });
    }
    found
}

fn walk_table<'d>(
    table: &'d DeTable<'_>,
    steps: &mut Vec<Step<'d>>,
    visit: &mut impl FnMut(Span, &[Step<'d>]),
) {
    for (key, value) in table {
        steps.push(Step::Key(key.get_ref()));
        visit(key.span().into(), steps);
        walk(value, steps, visit);
        steps.pop();
    }
}

fn walk<'d>(
    node: &'d Spanned<DeValue<'_>>,
    steps: &mut Vec<Step<'d>>,
    visit: &mut impl FnMut(Span, &[Step<'d>]),
) {
    visit(node.span().into(), steps);
    match node.get_ref() {
        DeValue::Table(table) => walk_table(table, steps, visit),
        DeValue::Array(nodes) => {
            for (index, node) in nodes.iter().enumerate() {
                steps.push(Step::Index(index));
                walk(node, steps, visit);
                steps.pop();
            }
        }
        _ => {}
    }
}

/// A key as part of a JSON Pointer (RFC 6901 §3).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The place of the value at a pointer, or of the innermost one on the way to it.
fn find(document: &DeTable<'_>, pointer: &str) -> Option<Span> {
    let mut found: Option<Span> = None;
    let mut table = Some(document);
    let mut array = None;
    for part in pointer.split('/').skip(1) {
        let key = part.replace("~1", "/").replace("~0", "~");
        let by_key = table.and_then(|table| table.get(key.as_str()));
        let by_index = || -> Option<&Spanned<DeValue<'_>>> {
            let nodes: &toml::de::DeArray<'_> = array?;
            nodes.get(key.parse::<usize>().ok()?)
        };
        let Some(node) = by_key.or_else(by_index) else { break };
        found = Some(node.span().into());
        (table, array) = match node.get_ref() {
            DeValue::Table(inner) => (Some(inner), None),
            DeValue::Array(nodes) => (None, Some(nodes)),
            _ => (None, None),
        };
    }
    found
}
