//! What a route does with a request.

use std::path::Path;
use std::sync::Arc;

use super::super::decode::Field;
use super::super::model::{Action, Directory, Fixed, HeaderField, MAX_FIXED_BODY_BYTES, Piece, Redirect};
use super::super::raw::{RawDirectory, RawFixed, RawRedirect, RawRoute};
use super::super::sink::{Located, Sink, Span, suggestion};
use super::{Cx, NO_SERVICE, Targets};

/// Status codes of responses that have no body (RFC 9110 §6.4.1).
const WITHOUT_BODY: [u16; 3] = [204, 205, 304];
/// Status codes of redirects.
const REDIRECTS: [u32; 5] = [301, 302, 303, 307, 308];

/// Checks that a route has exactly one action, and that one.
pub(super) fn check(raw: RawRoute, span: Span, targets: &mut Targets, cx: &mut Cx<'_>) -> Action {
    let present = [
        ("service", raw.service.is_present(), raw.service.get().map(|field| field.span)),
        ("program", raw.program.is_present(), raw.program.get().map(|field| field.span)),
        ("fixed", raw.fixed.is_present(), raw.fixed.get().map(|field| field.span)),
        ("redirect", raw.redirect.is_present(), raw.redirect.get().map(|field| field.span)),
        ("directory", raw.directory.is_present(), raw.directory.get().map(|field| field.span)),
    ];
    let given: Vec<&str> = present.iter().filter(|(_, there, _)| *there).map(|(key, ..)| *key).collect();
    match given.as_slice() {
        [] => {
            cx.sink
                .error(span, "the route does not say what to do")
                .help("add one of service, program, fixed, redirect and directory")
                .lacks(&["service", "program", "fixed", "redirect", "directory"]);
        }
        [_] => {}
        [first, second, ..] => {
            let at = |key: &str| present.iter().find(|(name, ..)| *name == key).and_then(|(.., span)| *span);
            let report = cx
                .sink
                .error(at(second).unwrap_or(span), format!("the route has both {first} and {second}"))
                .help("a route does one thing: leave out all but one");
            if let Some(first) = at(first) {
                report.also(first, "this one");
            }
        }
    }
    // Each is checked even where there are several, so that all mistakes are shown.
    let service = raw
        .service
        .take()
        .map(|name| Action::Service(targets.services.refer(&name, cx.sink).unwrap_or(NO_SERVICE)));
    let program = raw.program.take();
    let program =
        program.map(|name| Action::Service(targets.programs.service(&name, cx).unwrap_or(NO_SERVICE)));
    let fixed = raw.fixed.take().map(|raw| Action::Fixed(fixed(raw, cx)));
    let redirect = raw.redirect.take().map(|raw| Action::Redirect(redirect(&raw.value, cx.sink)));
    let directory = raw.directory.take().and_then(|raw| directory(raw.value, cx)).map(Action::Directory);
    service.or(program).or(fixed).or(redirect).or(directory).unwrap_or(Action::Service(NO_SERVICE))
}

fn fixed(raw: Located<RawFixed>, cx: &mut Cx<'_>) -> Fixed {
    let Located { value: raw, span } = raw;
    let status = u16::try_from(raw.status().0).unwrap_or(u16::MAX);
    if let (Some(body), Some(file)) = (raw.body.get(), raw.body_file.get()) {
        cx.sink
            .error(file.span, "the response has both body and body_file")
            .help("leave one of them out")
            .also(body.span, "this one");
    }
    let headers = response_fields(raw.headers, cx);
    let given_type = raw.content_type.get().map(|text| {
        check_content_type(text, cx.sink);
        Arc::from(text.value.as_str())
    });
    let inline = raw.body.take();
    let file = raw.body_file.take();
    let at = inline.as_ref().or(file.as_ref()).map_or(span, |field| field.span);
    let (body, body_file, guessed) = match (inline, file) {
        (Some(text), _) => (Arc::from(text.value.into_bytes()), None, Some(Arc::from(PLAIN_TEXT))),
        (None, Some(name)) => match cx.path(&name) {
            None => (Arc::default(), None, None),
            Some(path) => (read_body(&name, &path, cx), Some(path.clone()), Some(guess_content_type(&path))),
        },
        (None, None) => (Arc::default(), None, None),
    };
    if WITHOUT_BODY.contains(&status) && !body.is_empty() {
        cx.sink
            .error(at, format!("a {status} response has no body"))
            .help("leave the body out, or use another status");
    }
    if body.len() > MAX_FIXED_BODY_BYTES {
        cx.sink
            .error(
                at,
                format!(
                    "the body has {} bytes, but a fixed one can have only {MAX_FIXED_BODY_BYTES}",
                    body.len()
                ),
            )
            .help("serve large files with directory");
    }
    let content_type = given_type.or(guessed.filter(|_| !body.is_empty()));
    Fixed { status, body, body_file, content_type, headers }
}

/// The type of an inline body unless the file says otherwise.
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

fn read_body(name: &Located<String>, path: &Path, cx: &mut Cx<'_>) -> Arc<[u8]> {
    match cx.files.read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            cx.sink.error(name.span, format!("cannot read {}: {error}", path.display()));
            Arc::default()
        }
    }
}

fn guess_content_type(path: &Path) -> Arc<str> {
    let guess = mime_guess::from_path(path).first_or_octet_stream();
    if guess.type_() == mime_guess::mime::TEXT {
        format!("{}; charset=utf-8", guess.essence_str()).into()
    } else {
        guess.essence_str().into()
    }
}

fn check_content_type(text: &Located<String>, sink: &mut Sink) {
    let value = text.value.as_str();
    let essence = value.split(';').next().unwrap_or_default().trim_end();
    let token = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
    };
    let good = essence.split_once('/').is_some_and(|(kind, subtype)| token(kind) && token(subtype));
    if !good || value.bytes().any(|b| !(b' '..=b'~').contains(&b)) {
        sink.error(text.span, format!("{value:?} is not a media type"))
            .help("write it as in \"text/html; charset=utf-8\"");
    }
}

/// Further fields of a response of our own.
fn response_fields(fields: Field<super::super::raw::Fields>, cx: &mut Cx<'_>) -> Vec<HeaderField> {
    let fields = fields.or_default();
    for (name, _) in &fields.0 {
        if name.value.eq_ignore_ascii_case("content-type") {
            cx.sink
                .error(name.span, "Content-Type is not set among the headers")
                .help("use content_type for it");
        }
    }
    cx.fields(fields)
}

fn redirect(raw: &RawRedirect, sink: &mut Sink) -> Redirect {
    let status = raw.status().0;
    if let Some(field) = raw.status.get()
        && !REDIRECTS.contains(&status)
    {
        sink.error(field.span, format!("{status} does not send the client elsewhere"))
            .help("use 308 or 307 (method kept), 301, 302 or 303");
    }
    let to = raw.to.get().map(|to| location(to, sink)).unwrap_or_default();
    Redirect { status: u16::try_from(status).unwrap_or(u16::MAX), to }
}

/// What may stand in a redirect's URL for a part of the request.
const PLACEHOLDERS: [(&str, Piece); 3] =
    [("host", Piece::Host), ("path", Piece::Path), ("query", Piece::Query)];

/// Parses the URL of a redirect.
fn location(to: &Located<String>, sink: &mut Sink) -> Vec<Piece> {
    let text = to.value.as_str();
    if text.bytes().any(|b| !b.is_ascii_graphic() || b"\"<>\\^`|".contains(&b)) {
        sink.error(to.span, format!("{text:?} has characters that cannot stand in a URL"))
            .help("write them percent-encoded, a space as %20");
        return Vec::new();
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (literal, after) =
            rest.split_once('{').map_or((rest, None), |(before, after)| (before, Some(after)));
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        let Some(after) = after else { break };
        let Some((name, after)) = after.split_once('}') else {
            sink.error(to.span, format!("{text:?} has a \"{{\" without \"}}\""));
            return Vec::new();
        };
        match PLACEHOLDERS.iter().find(|(known, _)| *known == name) {
            Some((_, piece)) => pieces.push(piece.clone()),
            None => {
                let report = sink.error(to.span, format!("{{{name}}} stands for nothing"));
                match suggestion(name, PLACEHOLDERS.iter().map(|(known, _)| *known)) {
                    Some(help) => report.help(help),
                    None => report.help("there are {host}, {path} and {query}"),
                };
                return Vec::new();
            }
        }
        rest = after;
    }
    check_destination(to, &pieces, sink);
    pieces
}

/// A request must not be able to choose the host that it is sent to: what comes from its path stands after the host.
fn check_destination(to: &Located<String>, pieces: &[Piece], sink: &mut Sink) {
    let first = match pieces.first() {
        Some(Piece::Literal(literal)) => &**literal,
        _ => "",
    };
    if let Some(rest) = first.strip_prefix("https://").or_else(|| first.strip_prefix("http://")) {
        // Everything up to the first slash is the host, which only literals and `{host}` can be part of: what comes of
        // the request's path and query begins with a slash or a question mark itself.
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host_follows = rest.is_empty() && matches!(pieces.get(1), Some(Piece::Host));
        if authority.is_empty() && !host_follows {
            sink.error(to.span, format!("{:?} has no host", to.value))
                .help("write it as in \"https://example.org{path}{query}\"");
        } else if authority.bytes().any(|b| !(b.is_ascii_alphanumeric() || b"-._:[]".contains(&b))) {
            sink.error(to.span, format!("{authority:?} is not a host"));
        }
    } else if !first.starts_with('/')
        || first.starts_with("//")
        || (first == "/" && matches!(pieces.get(1), Some(Piece::Host | Piece::Path)))
    {
        sink.error(to.span, format!("{:?} is neither a URL nor a path", to.value))
            .help("begin with \"https://\", \"http://\", or \"/\" and the first letter of a path");
        return;
    }
    if pieces.windows(2).any(
        |pair| matches!(pair, [Piece::Literal(l), Piece::Path] if l.ends_with('/') && !l.ends_with("://")),
    ) {
        sink.warning(to.span, "{path} begins with \"/\" itself, so the URL gets two in a row");
    }
}

fn directory(raw: RawDirectory, cx: &mut Cx<'_>) -> Option<Directory> {
    let index = raw.index();
    let hidden = raw.hidden();
    for name in index.as_slice() {
        let text = &name.value;
        if text.is_empty() || text.contains(['/', '\0']) || text == "." || text == ".." {
            cx.sink
                .error(name.span, format!("{text:?} is not a file name"))
                .help("write a plain name, as in \"index.html\"");
        }
    }
    let headers = cx.fields(raw.headers.or_default());
    let root = raw.root.take()?;
    let root = cx.path(&root)?;
    Some(Directory {
        root,
        index: index.as_slice().iter().map(|name| name.value.as_str().into()).collect(),
        hidden,
        headers,
    })
}
