//! What a ClientHello says, read beside rustls (RFC 8446 §4.1.2): the name asked for, which rustls tells only its
//! certificate resolver, and the versions offered, for a better sentence when none fits. Nothing is decided by it.
//!
//! ```text
//!   pieces (the content of records) ──▶ whole message ──▶ Hello
//!                                  └──▶ not a ClientHello, or none that can be read: an empty Hello
//! ```

use rustls_pki_types::DnsName;

use crate::record::HANDSHAKE;

const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const SUPPORTED_VERSIONS: u16 = 43;
const HOST_NAME: u8 = 0;

/// The longest ClientHello that is looked at, in bytes.
const HELLO_BYTES: usize = 65_535 + 4;

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Hello {
    /// The name asked for, in lower case.
    pub(super) name: Option<Box<str>>,
    /// The versions offered, without those that are there only to see whether they are passed over (RFC 8701).
    pub(super) versions: Vec<u16>,
}

impl Hello {
    /// True if all that it offers is older than TLS 1.2.
    pub(super) fn is_old(&self) -> bool {
        !self.versions.is_empty() && self.versions.iter().all(|version| *version < 0x0303)
    }

    /// `the client offers only TLS 1.1`.
    pub(super) fn versions_in_words(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        for name in self.versions.iter().map(|version| version_name(*version)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.reverse();
        match names.split_last() {
            None => "the client offers no version of TLS that is known here".to_owned(),
            Some((last, [])) => format!("the client offers only {last}"),
            Some((last, others)) => format!("the client offers only {} and {last}", others.join(", ")),
        }
    }
}

fn version_name(version: u16) -> &'static str {
    match version {
        0x0300 => "SSL 3.0",
        0x0301 => "TLS 1.0",
        0x0302 => "TLS 1.1",
        0x0303 => "TLS 1.2",
        0x0304 => "TLS 1.3",
        _ => "a version unknown here",
    }
}

/// Puts a ClientHello together from records.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pieces: Vec<u8>,
    done: bool,
}

impl Reader {
    /// Takes one whole record; the hello, when it is complete.
    pub(super) fn take(&mut self, record: &[u8]) -> Option<Hello> {
        let (header, content) = record.split_first_chunk::<5>()?;
        if self.done || header[0] != HANDSHAKE {
            return None;
        }
        if self.pieces.is_empty()
            && let Some(hello) = message(content)
        {
            self.done = true;
            return Some(hello);
        }
        self.pieces.extend_from_slice(content);
        let hello = message(&self.pieces);
        self.done = hello.is_some() || self.pieces.len() > HELLO_BYTES;
        if self.done {
            self.pieces = Vec::new();
        }
        hello
    }
}

/// The hello at the front, once it is there whole; an empty one for what is none.
fn message(bytes: &[u8]) -> Option<Hello> {
    let (&[kind, high, middle, low], rest) = bytes.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes([0, high, middle, low])).ok()?;
    if kind != CLIENT_HELLO || length > HELLO_BYTES {
        return Some(Hello::default());
    }
    rest.get(..length).map(|body| hello(body).unwrap_or_default())
}

fn hello(body: &[u8]) -> Option<Hello> {
    let mut body = Bytes(body);
    let legacy = body.u16()?;
    body.take(32)?;
    body.short()?;
    body.long()?;
    body.short()?;
    let mut hello = Hello { name: None, versions: vec![legacy] };
    let Some(extensions) = body.long() else { return Some(hello) };
    let mut extensions = Bytes(extensions);
    while let Some(kind) = extensions.u16() {
        let content = extensions.long()?;
        match kind {
            SERVER_NAME => hello.name = name(content),
            SUPPORTED_VERSIONS => hello.versions = versions(content)?,
            _ => {}
        }
    }
    Some(hello)
}

/// RFC 6066 §3.
fn name(content: &[u8]) -> Option<Box<str>> {
    let mut list = Bytes(Bytes(content).long()?);
    let kind = list.take(1)?;
    let name = DnsName::try_from(list.long()?).ok()?;
    (kind == [HOST_NAME]).then(|| name.as_ref().to_ascii_lowercase().into_boxed_str())
}

/// RFC 8446 §4.2.1, without the values of RFC 8701.
fn versions(content: &[u8]) -> Option<Vec<u16>> {
    let mut list = Bytes(Bytes(content).short()?);
    let mut versions = Vec::new();
    while let Some(version) = list.u16() {
        if version & 0x0f0f != 0x0a0a {
            versions.push(version);
        }
    }
    Some(versions)
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, back) = self.0.split_at_checked(count)?;
        self.0 = back;
        Some(front)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }

    /// Bytes behind their length in one byte.
    fn short(&mut self) -> Option<&'a [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(usize::from(length))
    }

    /// Bytes behind their length in two bytes.
    fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A hello with these versions and this name, as one record.
    fn record(legacy: u16, versions: &[u16], name: Option<&str>) -> Vec<u8> {
        let mut extensions = Vec::new();
        if let Some(name) = name {
            let length = u16::try_from(name.len()).unwrap();
            for field in [0, length + 5, length + 3] {
                extensions.extend(field.to_be_bytes());
            }
            extensions.push(HOST_NAME);
            extensions.extend(length.to_be_bytes());
            extensions.extend(name.as_bytes());
        }
        if !versions.is_empty() {
            let length = u8::try_from(2 * versions.len()).unwrap();
            extensions.extend([0, 43, 0, length + 1, length]);
            extensions.extend(versions.iter().flat_map(|version| version.to_be_bytes()));
        }
        let mut body = legacy.to_be_bytes().to_vec();
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        let mut message = vec![CLIENT_HELLO, 0, length[0], length[1]];
        message.extend(body);
        let mut record = vec![HANDSHAKE, 3, 1];
        record.extend(u16::try_from(message.len()).unwrap().to_be_bytes());
        record.extend(message);
        record
    }

    #[test]
    fn the_name_and_the_versions_are_read() {
        let hello =
            Reader::default().take(&record(0x0303, &[0x5a5a, 0x0304, 0x0303], Some("A.Example"))).unwrap();
        assert_eq!(hello.name.as_deref(), Some("a.example"));
        assert_eq!(hello.versions, [0x0304, 0x0303]);
        assert_eq!(hello.versions_in_words(), "the client offers only TLS 1.2 and TLS 1.3");
    }

    #[test]
    fn an_old_client_is_named_by_its_version() {
        let hello = Reader::default().take(&record(0x0302, &[], None)).unwrap();
        assert_eq!(hello.versions_in_words(), "the client offers only TLS 1.1");
        assert_eq!(hello.name, None);
    }

    #[test]
    fn a_hello_in_pieces_is_put_together() {
        let record = record(0x0303, &[0x0304], Some("example.org"));
        let mut reader = Reader::default();
        let mut found = None;
        for byte in &record[5..] {
            assert_eq!(found, None);
            found = reader.take(&[HANDSHAKE, 3, 1, 0, 1, *byte]);
        }
        assert_eq!(found.unwrap().name.as_deref(), Some("example.org"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(records: Vec<Vec<u8>>) {
            let mut reader = Reader::default();
            for mut record in records {
                if let Some(first) = record.first_mut() {
                    *first = HANDSHAKE;
                }
                reader.take(&record);
            }
        }

        #[test]
        fn a_damaged_hello_is_read_without_harm(at in 5_usize..80, value: u8) {
            let mut record = record(0x0303, &[0x0304], Some("example.org"));
            if let Some(byte) = record.get_mut(at) {
                *byte = value;
            }
            Reader::default().take(&record);
        }
    }
}
