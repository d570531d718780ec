//! Headers that the configuration sets or removes, prepared once so that a request pays one copy for them.

use crate::header::{Header, Known, classify, is_token};
use crate::message::Version;

/// Prepared list of headers to set and to remove, for one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderRules {
    /// The lines to add, with their CR LF.
    rendered: Box<[u8]>,
    /// Names to take out, in lower case: the removed ones and those that are set.
    names: Box<[Box<[u8]>]>,
    /// Names to take out in whatever spelling, in lower case with `-`: see [`HeaderRules::guarding`].
    guarded: Box<[Box<[u8]>]>,
    /// Bit n: some name has n bytes (the last bit: that many or more). Most headers are passed by this alone.
    lengths: u64,
    /// Rules exist for headers that the writers would add by themselves; then the rule wins.
    pub(crate) names_host: bool,
    pub(crate) names_date: bool,
    pub(crate) names_x_forwarded_for: bool,
    pub(crate) names_x_forwarded_proto: bool,
    pub(crate) names_x_forwarded_host: bool,
    pub(crate) names_forwarded: bool,
    /// The name in `Via`; empty: none is written.
    via: Box<str>,
}

/// Why a header rule cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// Not a header name.
    #[error("{0:?} is not a header name: only letters, digits and !#$%&'*+-.^_`|~ may stand in one")]
    Name(String),
    /// Not a header value.
    #[error("the value of {0} has a control character, or whitespace at one of its ends")]
    Value(String),
    /// The proxy itself must be the one to write this header.
    #[error("{0} frames the message or belongs to one connection: the proxy writes it itself")]
    Reserved(String),
    /// A request cannot be forwarded without it.
    #[error("Host can be set, but not removed")]
    RemovesHost,
}

/// Checks a header line that somebody configured.
pub(crate) fn check(name: &str, value: &[u8]) -> Result<(), RuleError> {
    check_name(name)?;
    let control = |byte: &u8| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f;
    if value.iter().any(control) || value.trim_ascii() != value {
        return Err(RuleError::Value(name.to_owned()));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<Known, RuleError> {
    if !is_token(name.as_bytes()) {
        return Err(RuleError::Name(name.to_owned()));
    }
    match classify(name.as_bytes()) {
        Known::Te
        | Known::Expect
        | Known::Trailer
        | Known::Upgrade
        | Known::Connection
        | Known::KeepAlive
        | Known::ContentLength
        | Known::Http2Settings
        | Known::ProxyConnection
        | Known::TransferEncoding
        | Known::Disguised => Err(RuleError::Reserved(name.to_owned())),
        known => Ok(known),
    }
}

impl HeaderRules {
    /// Prepares the rules. Each name in `set` replaces all headers of that name, whoever wrote them (a name may
    /// be set twice: two lines); each in `remove` is dropped. A rule for `Date`, `X-Forwarded-*` or `Forwarded`
    /// is in place of what would be written otherwise.
    ///
    /// # Errors
    /// The first rule that cannot be.
    pub fn new<N, V, R>(set: &[(N, V)], remove: &[R]) -> Result<Self, RuleError>
    where
        N: AsRef<str>,
        V: AsRef<[u8]>,
        R: AsRef<str>,
    {
        let mut rules = Self::default();
        let mut rendered = Vec::new();
        let mut names: Vec<Box<[u8]>> = Vec::new();
        for (name, value) in set {
            let name = name.as_ref();
            check(name, value.as_ref())?;
            rules.note(check_name(name)?);
            crate::copy::push_header(&mut rendered, name.as_bytes(), value.as_ref());
            names.push(name.to_ascii_lowercase().into_bytes().into());
        }
        for name in remove.iter().map(AsRef::as_ref) {
            let known = check_name(name)?;
            if known == Known::Host {
                return Err(RuleError::RemovesHost);
            }
            rules.note(known);
            names.push(name.to_ascii_lowercase().into_bytes().into());
        }
        names.sort();
        names.dedup();
        rules.lengths = names.iter().fold(0, |lengths, name| lengths | length_bit(name.len()));
        rules.rendered = rendered.into();
        rules.names = names.into();
        Ok(rules)
    }

    /// Adds a `Via` line (RFC 9110 §7.6.3) to every message: the version it came in, and this name, behind the lines of
    /// those before. Where a rule names `Via`, the rule has the say.
    ///
    /// # Errors
    /// `name` is no token.
    pub fn with_via(mut self, name: &str) -> Result<Self, RuleError> {
        if !is_token(name.as_bytes()) {
            return Err(RuleError::Name(name.to_owned()));
        }
        if !self.names.iter().any(|ruled| **ruled == *b"via") {
            self.via = name.into();
        }
        Ok(self)
    }

    /// Takes out what comes under these names, too: headers that endpoints believe because only the proxy may write them. Servers that hand
    /// headers on as variables know no difference between `-` and `_`: either stands for the other.
    #[must_use]
    pub fn guarding<R: AsRef<str>>(mut self, names: &[R]) -> Self {
        self.guarded = names.iter().map(|name| folded(name.as_ref().as_bytes()).collect()).collect();
        self.lengths =
            self.guarded.iter().fold(self.lengths, |lengths, name| lengths | length_bit(name.len()));
        self
    }

    /// True if names are guarded: then they must not come as trailers, either.
    #[must_use]
    pub fn is_guarding(&self) -> bool {
        !self.guarded.is_empty()
    }

    fn note(&mut self, known: Known) {
        match known {
            Known::Host => self.names_host = true,
            Known::Date => self.names_date = true,
            Known::XForwardedFor => self.names_x_forwarded_for = true,
            Known::XForwardedProto => self.names_x_forwarded_proto = true,
            Known::XForwardedHost => self.names_x_forwarded_host = true,
            Known::Forwarded => self.names_forwarded = true,
            _ => {}
        }
    }

    /// True if nothing is set and nothing removed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Appends the lines to add to a message that came in this version.
    #[inline]
    pub(crate) fn write(&self, out: &mut Vec<u8>, received: Version) {
        if !self.via.is_empty() {
            self.write_via(out, received);
        }
        out.extend_from_slice(&self.rendered);
    }

    fn write_via(&self, out: &mut Vec<u8>, received: Version) {
        out.extend_from_slice(match received {
            Version::Http10 => b"Via: 1.0 ",
            Version::Http11 => b"Via: 1.1 ",
        });
        out.extend_from_slice(self.via.as_bytes());
        out.extend_from_slice(b"\r\n");
    }

    /// The lines to add that are the same for every message.
    pub(crate) fn rendered(&self) -> &[u8] {
        &self.rendered
    }

    /// Which of these headers the rules take out, one bit each.
    #[inline]
    pub(crate) fn taken_out(&self, headers: &[Header<'_>]) -> u128 {
        if self.lengths == 0 { 0 } else { self.find(headers) }
    }

    fn find(&self, headers: &[Header<'_>]) -> u128 {
        let mut found = 0;
        for (at, header) in headers.iter().enumerate() {
            let name = header.name.as_bytes();
            if self.lengths & length_bit(name.len()) != 0
                && (self.names.iter().any(|rule| rule.eq_ignore_ascii_case(name))
                    || self.guarded.iter().any(|rule| folded(name).eq(rule.iter().copied())))
            {
                found |= 1 << at;
            }
        }
        found
    }
}

/// A name as guarded names are compared.
fn folded(name: &[u8]) -> impl Iterator<Item = u8> {
    name.iter().map(|byte| if *byte == b'_' { b'-' } else { byte.to_ascii_lowercase() })
}

const fn length_bit(length: usize) -> u64 {
    1 << if length < 63 { length } else { 63 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [&str; 0] = [];

    #[test]
    fn rules_that_would_break_a_message_cannot_be_made() {
        let set = |name: &str, value: &str| HeaderRules::new(&[(name, value)], &NONE);
        assert!(matches!(set("a b", "x"), Err(RuleError::Name(_))));
        assert!(matches!(set("", "x"), Err(RuleError::Name(_))));
        assert!(matches!(set("x", "a\r\nb: c"), Err(RuleError::Value(_))));
        assert!(matches!(set("x", "a\0"), Err(RuleError::Value(_))));
        assert!(matches!(set("x", " a"), Err(RuleError::Value(_))));
        for name in ["Content-Length", "transfer-encoding", "Connection", "TE", "upgrade", "content_length"] {
            assert!(matches!(set(name, "x"), Err(RuleError::Reserved(_))), "{name}");
        }
        assert_eq!(HeaderRules::new::<&str, &str, _>(&[], &["host"]), Err(RuleError::RemovesHost));
        assert!(set("Host", "a.example").is_ok());
        assert!(set("X", "").is_ok());
    }

    #[test]
    fn rules_take_out_what_they_name_in_any_case() {
        let long = "x".repeat(70);
        let rules = HeaderRules::new(&[("X-One", "1")], &["Server", &long]).unwrap();
        let header = |name| Header { name, value: b"" };
        let upper = long.to_uppercase();
        let other = "y".repeat(70);
        let headers =
            [header("x-one"), header("X-Two"), header("SERVER"), header(&upper), header(&other), header("")];
        assert_eq!(rules.taken_out(&headers), 0b1101);
        assert_eq!(rules.rendered(), b"X-One: 1\r\n");
        assert!(HeaderRules::default().is_empty());
    }

    #[test]
    fn guarded_names_are_taken_out_in_every_spelling() {
        let rules = HeaderRules::new(&[("X-One", "1")], &NONE).unwrap().guarding(&["X-Client_Subject"]);
        let header = |name| Header { name, value: b"" };
        let headers = [
            header("x-client-subject"),
            header("X_CLIENT_SUBJECT"),
            header("X-Client_Subject"),
            header("X-ClientSubject"),
            header("x-client-subject2"),
            header("x-one"),
        ];
        assert_eq!(rules.taken_out(&headers), 0b10_0111);
        assert_eq!(HeaderRules::default().guarding(&["A"]).taken_out(&[header("a"), header("b")]), 1);
    }
}
