//! Words in braces: which of them a program uses, and that each stands for something.

use handover::Address;
use handover::program::{Private, ProgramSocket};

use super::super::super::decode::{Field, OneOrMany};
use super::super::super::raw_programs::{RawProgram, Variables};
use super::super::super::sink::Located;
use super::super::Cx;
use super::Subject;

/// All words that stand for something.
const WORDS: [&str; 8] = ["name", "slot", "directory", "fd", "port", "socket", "copy", "pid"];

/// Which words of the addresses a program uses anywhere.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Uses {
    pub(super) port: bool,
    pub(super) socket: bool,
}

/// What a copy is started with: commands and variables, of the slots too.
fn texts(raw: &RawProgram) -> Vec<&Located<String>> {
    let mut texts = Vec::new();
    add_command(&mut texts, &raw.command);
    add_variables(&mut texts, &raw.environment);
    for slot in raw.slots.get().map(|slots| slots.value.0.as_slice()).unwrap_or_default() {
        add_command(&mut texts, &slot.value.command);
        add_variables(&mut texts, &slot.value.environment);
    }
    texts
}

fn add_command<'r>(texts: &mut Vec<&'r Located<String>>, command: &'r Field<OneOrMany<String>>) {
    texts.extend(command.get().map(|command| command.value.as_slice()).unwrap_or_default());
}

fn add_variables<'r>(texts: &mut Vec<&'r Located<String>>, variables: &'r Field<Variables>) {
    let variables = variables.get().map(|variables| variables.value.0.as_slice()).unwrap_or_default();
    texts.extend(variables.iter().map(|(_, value)| value));
}

pub(super) fn uses(raw: &RawProgram) -> Uses {
    let texts = texts(raw);
    let says = |word: &str| texts.iter().any(|text| has(&text.value, word));
    Uses { port: says("port"), socket: says("socket") }
}

/// Whether a text has the word in braces; `{{port}}` is none.
pub(super) fn has(text: &str, word: &str) -> bool {
    words(text).any(|found| found == word)
}

/// What stands in single braces, as the supervisor reads it: `{{` and `}}` are braces, and what is no word stays as it is.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        loop {
            let at = rest.find(['{', '}'])?;
            rest = rest.get(at..)?;
            if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
                rest = after;
                continue;
            }
            let inner = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'));
            let plain = |word: &str| word.bytes().all(|byte| byte.is_ascii_lowercase());
            if let Some((word, after)) = inner.filter(|(word, _)| plain(word)) {
                rest = after;
                return Some(word);
            }
            rest = rest.get(1..)?;
        }
    })
}

/// Reports words that stand for an address which the program does not have.
pub(super) fn refuse_empty_ones(
    subject: Subject<'_>,
    sockets: &[ProgramSocket],
    private: Option<Private>,
    cx: &mut Cx<'_>,
) {
    // Addresses that could not be understood were reported.
    let listen = &subject.raw.listen;
    let understood = listen.get().map_or(0, |listen| listen.value.0.len()) == sockets.len();
    let refused = subject.raw.private.is_present() && subject.raw.private.get().is_none();
    if !understood || refused || (listen.is_present() && listen.get().is_none()) {
        return;
    }
    let first = sockets.first().map(|socket| &socket.address);
    let has_port = private == Some(Private::Port) || matches!(first, Some(Address::Tcp(_)));
    let is_unix = matches!(first, Some(Address::Unix { .. } | Address::Abstract(_)));
    let has_socket = is_unix || matches!(private, Some(Private::Socket | Private::Path));
    let has_fd = first.is_some() || private == Some(Private::Socket);
    let known = [
        ("port", has_port, "add private = \"port\", or listen on an address with a port"),
        ("socket", has_socket, "add private = \"path\", or listen on a Unix socket"),
        ("fd", has_fd, "add listen, or private = \"socket\""),
    ];
    for text in texts(subject.raw) {
        misspelt(text, cx);
        for (word, there, help) in known {
            if !there && has(&text.value, word) {
                let detail = format!("{{{word}}} stands for nothing: the program has no such address");
                cx.sink.error(text.span, detail).help(help);
            }
        }
        if !subject.raw.slots.is_present() && has(&text.value, "slot") {
            cx.sink
                .error(text.span, "{slot} stands for nothing: the program has no slots")
                .help("add slots, or write {{slot}} for the word itself");
        }
    }
}

/// What is no word is passed on as it stands, since programs have braces of their own; but one letter away from one it may be meant
/// as that.
fn misspelt(text: &Located<String>, cx: &mut Cx<'_>) {
    for word in words(&text.value).filter(|word| word.len() > 2 && !WORDS.contains(word)) {
        if let Some(near) = WORDS.iter().find(|known| strsim::osa_distance(word, known) == 1) {
            let detail =
                format!("{{{word}}} stands for nothing and is passed on as it is (did you mean {{{near}}}?)");
            cx.sink.warning(text.span, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::has;

    #[test]
    fn a_word_in_braces_is_seen_and_doubled_braces_are_braces() {
        for (text, expected) in [
            ("{port}", true),
            ("--bind=127.0.0.1:{port}", true),
            ("{socket}:{port}", true),
            ("{{port}}", false),
            ("{{{port}}}", true),
            ("${PORT}", false),
            ("port", false),
            ("{", false),
            ("{a b{port}", true),
            ("}{port", false),
            ("ü{ö}{port}", true),
        ] {
            assert_eq!(has(text, "port"), expected, "{text}");
        }
    }
}
