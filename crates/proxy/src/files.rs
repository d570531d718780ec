//! Files of a directory: from a request's path to an open file, with ranges and conditions.
//!
//! A path can never lead out of the directory: it is checked segment by segment, and the kernel resolves it below the
//! directory only (`openat2(2)` with `RESOLVE_BENEATH`), symbolic links included.

use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handover_http1::RequestHead;
use http_range_header::{EndPosition, StartPosition};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat2};
use rustix::io::Errno;

use crate::generation::Root;

/// What is answered.
#[derive(Debug)]
pub(crate) enum Served {
    /// A one-line text.
    Plain { status: u16, reason: &'static str },
    /// Neither GET nor HEAD.
    NotAllowed,
    /// The path names a directory and does not end in a slash.
    Redirect { location: String },
    /// A file, or the part of it from `offset` to `end`; without `file` only the head.
    File { status: u16, file: Option<OwnedFd>, offset: u64, end: u64, headers: Vec<(&'static str, String)> },
}

impl Served {
    /// Its status.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Plain { status, .. } | Self::File { status, .. } => *status,
            Self::NotAllowed => 405,
            Self::Redirect { .. } => 301,
        }
    }
}

const NOT_FOUND: Served = Served::Plain { status: 404, reason: "there is no such file" };

/// Finds the file that a request asks for. `prefix` bytes of its path belong to the route.
pub(crate) fn serve(root: &Root, head: &RequestHead<'_, '_>, prefix: usize) -> Served {
    if !matches!(head.method, "GET" | "HEAD") {
        return Served::NotAllowed;
    }
    let rest = head.path.get(prefix..).unwrap_or_default();
    let Some(relative) = relative_path(rest, root.plan.hidden) else { return NOT_FOUND };
    if relative.is_empty() || relative.ends_with('/') {
        return index(root, head, &relative);
    }
    match open(root, &relative) {
        Ok((file, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
            answer(head, file, &stat, &relative)
        }
        Ok((_, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
            let query = head.query.map(|query| format!("?{query}")).unwrap_or_default();
            Served::Redirect { location: on_this_host(&format!("{}/{query}", head.path)).to_owned() }
        }
        Ok(_) => NOT_FOUND,
        Err(errno) => refused(errno),
    }
}

/// A reference to a path of this server, of which the client chose the beginning. Two slashes there would name another
/// host (RFC 3986 §4.2), so all but one of them go.
pub(crate) fn on_this_host(reference: &str) -> &str {
    let without = reference.trim_start_matches('/');
    let more = reference.len() - without.len();
    if more > 1 { reference.get(more - 1..).unwrap_or("/") } else { reference }
}

fn index(root: &Root, head: &RequestHead<'_, '_>, directory: &str) -> Served {
    for name in &root.plan.index {
        let path = format!("{directory}{name}");
        match open(root, &path) {
            Ok((file, stat)) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                return answer(head, file, &stat, &path);
            }
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => return refused(errno),
        }
    }
    NOT_FOUND
}

fn open(root: &Root, path: &str) -> Result<(OwnedFd, Stat), Errno> {
    // Without NONBLOCK, opening a FIFO would wait for a writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let path = path.trim_end_matches('/');
    let file = openat2(&root.directory, path, flags, Mode::empty(), resolve)?;
    let stat = fstat(&file)?;
    Ok((file, stat))
}

fn refused(errno: Errno) -> Served {
    match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG => NOT_FOUND,
        Errno::ACCESS | Errno::PERM => Served::Plain { status: 403, reason: "this file may not be read" },
        Errno::MFILE | Errno::NFILE => Served::Plain { status: 503, reason: "too many files are open here" },
        _ => Served::Plain { status: 500, reason: "this file cannot be opened" },
    }
}

/// The path below the directory, decoded; `None` if there can be no such file.
fn relative_path(rest: &str, hidden: bool) -> Option<String> {
    let rest = rest.strip_prefix('/').unwrap_or(rest);
    let mut path = String::with_capacity(rest.len());
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        let segment = decode(segment)?;
        if segment.is_empty() {
            // Only at the end: "a/" is the directory "a".
            return last.then_some(path);
        }
        let forbidden = segment == "." || segment == ".." || segment.contains(['/', '\0']);
        if forbidden || (segment.starts_with('.') && !hidden) {
            return None;
        }
        path.push_str(&segment);
        if !last {
            path.push('/');
        }
    }
    Some(path)
}

/// Undoes percent-encoding (RFC 3986 §2.1); `None` if it is wrong or does not yield UTF-8.
fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

/// The file, or what the request's conditions and range make of it (RFC 9110 §13, §14).
fn answer(head: &RequestHead<'_, '_>, file: OwnedFd, stat: &Stat, path: &str) -> Served {
    let size = u64::try_from(stat.st_size).unwrap_or_default();
    let version = FileVersion::of(stat, size);
    if version.is_not_what_was_meant(head) {
        return Served::Plain { status: 412, reason: "the file is not the one that the request means" };
    }
    let mut headers = vec![("ETag", version.tag.clone())];
    if let Some(modified) = version.modified {
        headers.push(("Last-Modified", httpdate::fmt_http_date(modified)));
    }
    if version.is_known_to(head) {
        return Served::File { status: 304, file: None, offset: 0, end: 0, headers };
    }
    headers.push(("Accept-Ranges", "bytes".to_owned()));
    match range(head, &version, size) {
        Range::Whole => {
            headers.push(("Content-Type", content_type(path)));
            Served::File { status: 200, file: Some(file), offset: 0, end: size, headers }
        }
        Range::Part { offset, end } => {
            headers.push(("Content-Type", content_type(path)));
            headers.push(("Content-Range", format!("bytes {offset}-{}/{size}", end - 1)));
            Served::File { status: 206, file: Some(file), offset, end, headers }
        }
        Range::Outside => {
            headers.push(("Content-Range", format!("bytes */{size}")));
            Served::File { status: 416, file: None, offset: 0, end: 0, headers }
        }
    }
}

fn content_type(path: &str) -> String {
    let guess = mime_guess::from_path(path).first_or_octet_stream();
    if guess.type_() == "text" { format!("{guess}; charset=utf-8") } else { guess.to_string() }
}

/// Which state of a file this is.
struct FileVersion {
    tag: String,
    /// Whole seconds, as HTTP dates are.
    modified: Option<SystemTime>,
}

impl FileVersion {
    fn of(stat: &Stat, size: u64) -> Self {
        let seconds = u64::try_from(stat.st_mtime).ok();
        let modified = seconds.and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        let tag = format!("\"{:x}-{size:x}-{:x}.{:x}\"", stat.st_ino, stat.st_mtime, stat.st_mtime_nsec);
        Self { tag, modified }
    }

    /// The request is meant for another version: 412 (RFC 9110 §13.1.1, §13.1.4, in the order of §13.2.2).
    fn is_not_what_was_meant(&self, head: &RequestHead<'_, '_>) -> bool {
        if head.header("if-match").is_some() {
            let fields = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("if-match"));
            let mut tags = fields.flat_map(|header| header.value.split(|byte| *byte == b','));
            // A weak tag never matches here.
            return !tags
                .any(|tag| matches!(tag.trim_ascii(), b"*") || tag.trim_ascii() == self.tag.as_bytes());
        }
        let since = head.header("if-unmodified-since").and_then(parse_date);
        since.zip(self.modified).is_some_and(|(since, modified)| modified > since)
    }

    /// The client has this version already: 304.
    fn is_known_to(&self, head: &RequestHead<'_, '_>) -> bool {
        if head.header("if-none-match").is_some() {
            let fields =
                head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("if-none-match"));
            return fields.flat_map(|header| header.value.split(|byte| *byte == b',')).any(|tag| {
                let tag = tag.trim_ascii();
                tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == self.tag.as_bytes()
            });
        }
        let since = head.header("if-modified-since").and_then(parse_date);
        since.zip(self.modified).is_some_and(|(since, modified)| modified <= since)
    }

    /// A part of this version can be added to what the client has (If-Range).
    fn may_be_continued(&self, head: &RequestHead<'_, '_>) -> bool {
        match head.header("if-range") {
            None => true,
            Some(tag) if tag.starts_with(b"\"") => tag == self.tag.as_bytes(),
            Some(date) => parse_date(date).is_some_and(|date| self.modified == Some(date)),
        }
    }
}

fn parse_date(value: &[u8]) -> Option<SystemTime> {
    httpdate::parse_http_date(std::str::from_utf8(value).ok()?).ok()
}

/// Which part is asked for.
#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { offset: u64, end: u64 },
    Outside,
}

/// One range is served as such; several, or none that can be understood, are answered with the whole file, as RFC 9110 §14.2
/// permits.
fn range(head: &RequestHead<'_, '_>, version: &FileVersion, size: u64) -> Range {
    let Some(value) = head.header("range") else { return Range::Whole };
    if head.method != "GET" || !version.may_be_continued(head) {
        return Range::Whole;
    }
    let parsed =
        std::str::from_utf8(value).ok().and_then(|value| http_range_header::parse_range_header(value).ok());
    let Some(parsed) = parsed else { return Range::Whole };
    let [range] = parsed.ranges.as_slice() else { return Range::Whole };
    let offset = match range.start {
        StartPosition::Index(first) => first,
        StartPosition::FromLast(count) => size.saturating_sub(count),
    };
    let end = match range.end {
        EndPosition::Index(last) if last < offset => return Range::Whole,
        EndPosition::Index(last) => last.saturating_add(1).min(size),
        EndPosition::LastByte => size,
    };
    if offset >= size { Range::Outside } else { Range::Part { offset, end } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_that_begins_with_slashes_names_no_other_host() {
        for (reference, safe) in
            [("/a/", "/a/"), ("//a/", "/a/"), ("////a//b/", "/a//b/"), ("//", "/"), ("/", "/"), ("", "")]
        {
            assert_eq!(on_this_host(reference), safe, "{reference}");
        }
    }

    #[test]
    fn no_path_leads_out_of_the_directory() {
        for bad in [
            "/..",
            "/../x",
            "/a/../../x",
            "/%2e%2e/x",
            "/a/%2E%2E/x",
            "/a%2fb",
            "/a%00",
            "//x",
            "/a//b",
            "/./a",
            "/%zz",
            "/%+1",
        ] {
            assert_eq!(relative_path(bad, true), None, "{bad}");
        }
        assert_eq!(relative_path("/.git/config", false), None);
        assert_eq!(relative_path("/%2egit/config", false), None);
        assert_eq!(relative_path("/.git/config", true).as_deref(), Some(".git/config"));
        assert_eq!(relative_path("/a/b%20c", false).as_deref(), Some("a/b c"));
        assert_eq!(relative_path("/a/", false).as_deref(), Some("a/"));
        assert_eq!(relative_path("/", false).as_deref(), Some(""));
        assert_eq!(relative_path("", false).as_deref(), Some(""));
    }
}
