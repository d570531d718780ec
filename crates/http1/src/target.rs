//! Request targets (RFC 9112 §3.2) and the `Host` header (RFC 9110 §7.2).
//!
//! The path is neither decoded nor normalised: what is matched is what is forwarded. Only what is certain to be read
//! in two ways is refused: bytes that no target may have, fragments, and characters in the path that some servers
//! take for others (`\` for `/`) or that no browser leaves unescaped (`"`, `<`, `>`).

use std::net::Ipv6Addr;

use crate::limits::MAX_HOST_BYTES;
use crate::refusal::Refusal;

/// A checked host with an optional port, from the `Host` header or an absolute-form target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host<'b> {
    /// As sent, port included.
    pub raw: &'b str,
    /// Without port; IPv6 addresses keep their brackets. Case as sent.
    pub name: &'b str,
    /// The port, if one was stated.
    pub port: Option<u16>,
}

/// A request target taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target<'b> {
    pub(crate) path: &'b str,
    pub(crate) query: Option<&'b str>,
    /// Of an absolute-form target: its authority, and the port that its scheme implies.
    pub(crate) authority: Option<(Host<'b>, u16)>,
}

const MARK: u8 = 1;
const BAD_ANYWHERE: u8 = 2;
const BAD_IN_PATH: u8 = 4;

/// What each byte means in a target. httparse has refused controls, space and DEL already; they are bad here too, so
/// that this table says all of it.
static CLASSES: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0u8;
    loop {
        classes[byte as usize] = match byte {
            b'?' => MARK,
            b'#' | 0..=b' ' | 0x7f.. => BAD_ANYWHERE,
            b'"' | b'<' | b'>' | b'\\' => BAD_IN_PATH,
            _ => 0,
        };
        if byte == u8::MAX {
            break;
        }
        byte += 1;
    }
    classes
};

fn classes_of(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |all, byte| all | CLASSES[usize::from(*byte)])
}

/// Takes a target apart and applies the rules of its form.
pub(crate) fn parse_target<'b>(method: &str, target: &'b str) -> Result<Target<'b>, Refusal> {
    let bytes = target.as_bytes();
    let mut path_classes = 0;
    let mut path_end = bytes.len();
    for (at, byte) in bytes.iter().enumerate() {
        let class = CLASSES[usize::from(*byte)];
        if class == MARK {
            path_end = at;
            break;
        }
        path_classes |= class;
    }
    // All bytes are ASCII if none is bad, and both places are in ASCII anyway, so the slices cannot fail.
    let before = target.get(..path_end).unwrap_or_default();
    let query = target.get(path_end + 1..);
    let all = path_classes | query.map_or(0, |query| classes_of(query.as_bytes()));
    if all & BAD_ANYWHERE != 0 {
        return Err(bad_character(bytes));
    }
    if path_classes & BAD_IN_PATH != 0 {
        return Err(Refusal::bad("a character in the path must be percent-encoded"));
    }
    if method == "CONNECT" {
        return Err(refuse_connect(target));
    }
    if bytes.first() == Some(&b'/') {
        return Ok(Target { path: before, query, authority: None });
    }
    if target == "*" {
        if method == "OPTIONS" {
            return Ok(Target { path: target, query: None, authority: None });
        }
        return Err(Refusal::bad("only OPTIONS may have * for a target"));
    }
    parse_absolute(method, before, query)
}

#[cold]
fn bad_character(target: &[u8]) -> Refusal {
    let first = target.iter().find(|byte| CLASSES[usize::from(**byte)] == BAD_ANYWHERE);
    match first {
        Some(b'#') => Refusal::bad("the target has a fragment"),
        Some(0x80..) => Refusal::bad("the target has a byte that is not ASCII"),
        _ => Refusal::bad("the target has a control character"),
    }
}

#[cold]
fn refuse_connect(target: &str) -> Refusal {
    match parse_host(target.as_bytes()) {
        Ok(Host { port: Some(_), .. }) => Refusal::new(501, "CONNECT is not offered here"),
        _ => Refusal::bad("the target of CONNECT must be host:port"),
    }
}

/// `http://authority/path?query`; `before` is what stands before the query.
fn parse_absolute<'b>(method: &str, before: &'b str, query: Option<&'b str>) -> Result<Target<'b>, Refusal> {
    let Some((scheme, rest)) = before.split_once("://") else {
        return Err(Refusal::bad("the target is neither a path nor an absolute URI"));
    };
    let default_port = if scheme.eq_ignore_ascii_case("http") {
        80
    } else if scheme.eq_ignore_ascii_case("https") {
        443
    } else {
        return Err(Refusal::bad("the target's scheme is neither http nor https"));
    };
    let slash = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(slash);
    if authority.contains('@') {
        return Err(Refusal::bad("the target has user information"));
    }
    let host = parse_host(authority.as_bytes())?;
    let path = match (path, query) {
        // RFC 9112 §3.2.4: this is how a client says `OPTIONS *` to a proxy.
        ("", None) if method == "OPTIONS" => "*",
        ("", _) => "/",
        (path, _) => path,
    };
    Ok(Target { path, query, authority: Some((host, default_port)) })
}

/// Do the authority of the target and `Host` name the same place (RFC 9112 §3.2.2)?
pub(crate) fn agree(authority: Host<'_>, host: Host<'_>, default_port: u16) -> bool {
    authority.name.eq_ignore_ascii_case(host.name)
        && authority.port.unwrap_or(default_port) == host.port.unwrap_or(default_port)
}

const BAD_HOST: Refusal = Refusal::bad("the host is malformed");

/// Checks `host[:port]`: a DNS-like name (letters, digits, `-`, `.`, `_`, `~`; no empty label but a last one), an
/// IPv4 address or a bracketed IPv6 address. The grammar's `sub-delims` and percent-encoding are refused: no name
/// has them, and lists and quoting in forwarding headers would have to escape them.
pub(crate) fn parse_host(value: &[u8]) -> Result<Host<'_>, Refusal> {
    if value.is_empty() {
        return Err(Refusal::bad("the host is empty"));
    }
    if value.len() > MAX_HOST_BYTES {
        return Err(Refusal::bad("the host is too long"));
    }
    let raw = std::str::from_utf8(value).map_err(|_| BAD_HOST)?;
    let name_end = if value.first() == Some(&b'[') { ipv6_end(raw)? } else { name_end(value)? };
    let (name, rest) = raw.split_at_checked(name_end).ok_or(BAD_HOST)?;
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        None => return Err(BAD_HOST),
        Some(port) => parse_port(port)?,
    };
    Ok(Host { raw, name, port })
}

/// What each byte means in a name.
static NAME_CLASSES: [NameByte; 256] = {
    let mut classes = [NameByte::Bad; 256];
    let mut byte = 0u8;
    while byte < 0x80 {
        classes[byte as usize] = match byte {
            b'-' | b'_' | b'~' => NameByte::Plain,
            b'.' => NameByte::Dot,
            b':' => NameByte::Colon,
            _ if byte.is_ascii_alphanumeric() => NameByte::Plain,
            _ => NameByte::Bad,
        };
        byte += 1;
    }
    classes
};

#[derive(Clone, Copy, PartialEq, Eq)]
enum NameByte {
    Plain,
    Dot,
    Colon,
    Bad,
}

/// The end of a name: the colon, or the end of the value. No label but the last may be empty.
fn name_end(value: &[u8]) -> Result<usize, Refusal> {
    let mut label = 0;
    for (at, byte) in value.iter().enumerate() {
        match NAME_CLASSES[usize::from(*byte)] {
            NameByte::Plain => {}
            NameByte::Dot if at > label => label = at + 1,
            NameByte::Colon if at > 0 => return Ok(at),
            NameByte::Dot | NameByte::Colon | NameByte::Bad => return Err(BAD_HOST),
        }
    }
    Ok(value.len())
}

fn ipv6_end(raw: &str) -> Result<usize, Refusal> {
    let close = raw.find(']').ok_or(BAD_HOST)?;
    let address = raw.get(1..close).ok_or(BAD_HOST)?;
    address.parse::<Ipv6Addr>().map_err(|_| BAD_HOST)?;
    Ok(close + 1)
}

/// `port = *DIGIT`: an empty one is legal and means the default.
fn parse_port(port: &str) -> Result<Option<u16>, Refusal> {
    if port.is_empty() {
        return Ok(None);
    }
    if port.len() > 5 || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Refusal::bad("the host's port is malformed"));
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(Refusal::bad("the host's port is out of range")),
        Ok(port) => Ok(Some(port)),
    }
}
