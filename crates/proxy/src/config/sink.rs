//! Where the mistakes of one file gather until all of them are known.

use std::ops::Range;

/// The most problems that are reported of one file; a note at the end counts the others.
pub(super) const MAX_PROBLEMS: usize = 200;

/// The most problems of each severity that are kept to choose the first ones from.
const MAX_KEPT: usize = 10_000;

/// A range of bytes in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(super) struct Span {
    /// First byte.
    pub(super) start: usize,
    /// One after the last byte.
    pub(super) end: usize,
}

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Located<T> {
    /// The value.
    pub(super) value: T,
    /// Where it stands.
    pub(super) span: Span,
}

/// What a report means for the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// It is refused.
    Error,
    /// It is served all the same.
    Warning,
}

/// One mistake, before it is rendered.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) severity: Severity,
    /// `None`: it concerns the file as a whole.
    pub(super) span: Option<Span>,
    pub(super) detail: String,
    pub(super) help: Option<String>,
    /// Another place that has to do with it, and what.
    pub(super) also: Option<(Span, String)>,
    /// It says that something is absent. Where the syntax is broken as well, that something may just not have been
    /// understood, so the report is dropped.
    pub(super) absence: bool,
    /// The keys of which one is absent: where one of them is there, misspelt, the report is dropped.
    pub(super) lacks: &'static [&'static str],
    /// The table in which a key is misspelt, and the key that was probably meant.
    pub(super) misspelt: Option<(Span, &'static str)>,
    /// Found by the TOML parser: no value stands there.
    pub(super) syntax: bool,
}

impl Report {
    /// Adds advice.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    /// Adds another place.
    pub(super) fn also(&mut self, span: Span, label: impl Into<String>) -> &mut Self {
        self.also = Some((span, label.into()));
        self
    }

    /// Marks it as being about something absent, somewhere in the file.
    pub(super) fn absence(&mut self) -> &mut Self {
        self.absence = true;
        self
    }

    /// Marks it as being about a key (one of these) that is absent from the table that the report points at.
    pub(super) fn lacks(&mut self, keys: &'static [&'static str]) -> &mut Self {
        self.lacks = keys;
        self.absence()
    }
}

/// Gathers reports.
#[derive(Debug, Default)]
pub(super) struct Sink {
    reports: Vec<Report>,
    errors: usize,
    warnings: usize,
    /// The last one that was not kept.
    beyond: Option<Report>,
}

impl Sink {
    /// Reports a reason to refuse the file.
    pub(super) fn error(&mut self, span: Span, detail: impl Into<String>) -> &mut Report {
        self.push(Severity::Error, Some(span), detail.into(), false)
    }

    /// Reports something odd.
    pub(super) fn warning(&mut self, span: Span, detail: impl Into<String>) -> &mut Report {
        self.push(Severity::Warning, Some(span), detail.into(), false)
    }

    /// Reports a reason to refuse the file that no place in it shows.
    pub(super) fn error_without_place(&mut self, detail: impl Into<String>) -> &mut Report {
        self.push(Severity::Error, None, detail.into(), false)
    }

    /// Reports what the TOML parser found.
    pub(super) fn syntax(&mut self, span: Option<Span>, detail: String) -> &mut Report {
        self.push(Severity::Error, span, detail, true)
    }

    fn push(&mut self, severity: Severity, span: Option<Span>, detail: String, syntax: bool) -> &mut Report {
        let report = Report {
            severity,
            span,
            detail,
            help: None,
            also: None,
            absence: false,
            lacks: &[],
            misspelt: None,
            syntax,
        };
        let count = match severity {
            Severity::Error => &mut self.errors,
            Severity::Warning => &mut self.warnings,
        };
        *count += 1;
        if *count > MAX_KEPT {
            return self.beyond.insert(report);
        }
        // A `Vec` has no "push and give me the place": the last element is the one just pushed.
        let index = self.reports.len();
        self.reports.push(report);
        &mut self.reports[index]
    }

    /// How many errors there are so far.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// How many reports were not kept, by severity.
    pub(super) fn beyond(&self, severity: Severity) -> usize {
        let count = match severity {
            Severity::Error => self.errors,
            Severity::Warning => self.warnings,
        };
        count.saturating_sub(MAX_KEPT)
    }

    /// Everything gathered, in the order of the file.
    ///
    /// Where the syntax is broken, what was understood of the rest is checked all the same, so that one run shows
    /// everything; but nothing is said about what seems absent or superfluous.
    pub(super) fn into_reports(self) -> Vec<Report> {
        let mut reports = self.reports;
        if reports.iter().any(|report| report.syntax) {
            reports
                .retain(|report| report.syntax || !(report.absence || report.severity == Severity::Warning));
        }
        let misspelt: Vec<(Span, &str)> = reports.iter().filter_map(|report| report.misspelt).collect();
        reports.retain(|report| {
            let here = misspelt.iter().filter(|(table, _)| Some(*table) == report.span);
            !here.into_iter().any(|(_, meant)| report.lacks.contains(meant))
        });
        reports.sort_by_key(|report| (report.span.map(|span| span.start), !report.syntax));
        reports
    }
}

/// The candidate that is so near to a word that it was probably meant.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    if word.len() > MAX_COMPARED_BYTES {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('-', "_");
    let word = plain(word);
    candidates
        .iter()
        .filter(|candidate| candidate.len() <= MAX_COMPARED_BYTES)
        .map(|candidate| (strsim::jaro_winkler(&word, &plain(candidate)), *candidate))
        .filter(|(similarity, _)| *similarity >= NEAR)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// As [`suggestion`], for something that may also be written otherwise: `or` says how, and is empty if it may not.
pub(super) fn suggestion_or<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    or: &str,
) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    let help = suggestion(word, candidates.iter().copied())?;
    let is_whole = or.is_empty() || nearest(word, &candidates).is_some();
    Some(if is_whole { help } else { format!("{help}, or {or}") })
}

/// `did you mean "service"?`, if one of the candidates is near; otherwise the candidates, if they are few.
pub(super) fn suggestion<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let candidates: Vec<&str> = candidates.into_iter().collect();
    if let Some(near) = nearest(word, &candidates) {
        return Some(format!("did you mean {near:?}?"));
    }
    match candidates.as_slice() {
        [] => None,
        [only] => Some(format!("there is only {only:?}")),
        few if few.len() <= MAX_LISTED => Some(format!("there are {}", quoted_list(few))),
        _ => None,
    }
}

/// Names that a suggestion lists where none is near.
const MAX_LISTED: usize = 12;
/// The similarity (Jaro-Winkler, 0 to 1) from which a name counts as meant.
const NEAR: f64 = 0.8;
/// Names longer than this are not compared: nobody misspells them by hand.
const MAX_COMPARED_BYTES: usize = 200;

/// `"a", "b" and "c"`.
pub(super) fn quoted_list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
