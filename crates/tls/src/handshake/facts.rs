//! What was agreed, written down: the bytes that travel to another process, where many connections may share them.
//!
//! ```text
//!   format(1) suite(2) flags(1)  then of SNI, ALPN, group and subject those that there are: length(2) bytes
//! ```
//!
//! Numbers are big-endian. The version of TLS follows from the suite.

use rustls::NamedGroup;

use super::Facts;
use super::subject::SUBJECT_BYTES;
use crate::session::StateError;
use crate::suite::Suite;

/// The format that this release writes.
const FORMAT: u8 = 1;

const RESUMED: u8 = 1;
const SNI: u8 = 2;
const ALPN: u8 = 4;
const GROUP: u8 = 8;
const SUBJECT: u8 = 16;

/// The numbers of all groups that have names, in the registry of TLS parameters.
const GROUPS: [u16; 15] = [
    0x0017, 0x0018, 0x0019, 0x001d, 0x001e, 0x0100, 0x0101, 0x0102, 0x0103, 0x0104, 0x0200, 0x0201, 0x0202,
    0x11eb, 0x11ec,
];

impl Facts {
    /// Appends what another process needs to know the same: a few dozen bytes, at most some thousands with a long subject.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        out.extend_from_slice(&self.suite.number().to_be_bytes());
        let parts: [(u8, Option<&[u8]>); 4] = [
            (SNI, self.sni.as_deref().map(str::as_bytes)),
            (ALPN, self.alpn.as_deref()),
            (GROUP, self.group.map(str::as_bytes)),
            (SUBJECT, self.client_subject.as_deref().map(str::as_bytes)),
        ];
        // None of them can be longer: RFC 6066 §3, RFC 7301 §3.1, and the limit of subjects.
        let parts = parts.map(|(flag, part)| {
            let length = part.and_then(|part| u16::try_from(part.len()).ok());
            (flag, length.zip(part))
        });
        let there = parts.iter().filter(|(_, part)| part.is_some()).fold(0, |flags, (flag, _)| flags | flag);
        out.push(there | if self.resumed { RESUMED } else { 0 });
        for (length, part) in parts.into_iter().filter_map(|(_, part)| part) {
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(part);
        }
    }

    /// What [`Facts::write`] wrote.
    ///
    /// # Errors
    /// Bytes that are not exactly that.
    pub fn read(bytes: &[u8]) -> Result<Self, StateError> {
        match bytes.split_first() {
            Some((&FORMAT, rest)) => read(rest).ok_or(StateError::Damaged),
            Some((&format, _)) => Err(StateError::Format(format)),
            None => Err(StateError::Damaged),
        }
    }
}

fn read(mut rest: &[u8]) -> Option<Facts> {
    let mut take = |count: usize| {
        let (front, back) = rest.split_at_checked(count)?;
        rest = back;
        Some(front)
    };
    let suite = Suite::from_number(u16::from_be_bytes(*take(2)?.first_chunk()?))?;
    let flags = *take(1)?.first()?;
    let mut part = |flag: u8| {
        if flags & flag == 0 {
            return Some(None);
        }
        let length = u16::from_be_bytes(*take(2)?.first_chunk()?);
        take(usize::from(length)).map(Some)
    };
    let text = |bytes: Option<&[u8]>| match bytes {
        None => Some(None),
        Some(bytes) => std::str::from_utf8(bytes).ok().map(|text| Some(Box::<str>::from(text))),
    };
    let sni = text(part(SNI)?)?;
    let alpn = part(ALPN)?.map(Box::from);
    let group = part(GROUP)?.and_then(group);
    let client_subject = text(part(SUBJECT)?)?;
    if client_subject.as_deref().is_some_and(|subject| !is_safe(subject)) {
        return None;
    }
    let whole = rest.is_empty() && flags & !(RESUMED | SNI | ALPN | GROUP | SUBJECT) == 0;
    whole.then(|| Facts {
        sni,
        alpn,
        version: suite.version(),
        suite,
        resumed: flags & RESUMED != 0,
        group,
        client_subject,
    })
}

/// The name of a group that this release knows by that name, too.
fn group(name: &[u8]) -> Option<&'static str> {
    GROUPS
        .iter()
        .filter_map(|number| NamedGroup::from(*number).as_str())
        .find(|known| known.as_bytes() == name)
}

/// It goes into headers: only what the handshake lets through can come out of here.
fn is_safe(subject: &str) -> bool {
    subject.len() <= SUBJECT_BYTES && subject.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let suite = Suite::from_number(0x1301).unwrap();
        Facts {
            sni: Some("example.org".into()),
            alpn: Some(b"http/1.1".as_slice().into()),
            version: suite.version(),
            suite,
            resumed: true,
            group: Some("X25519"),
            client_subject: Some("CN=Ann Other".into()),
        }
    }

    fn written(facts: &Facts) -> Vec<u8> {
        let mut out = Vec::new();
        facts.write(&mut out);
        out
    }

    #[test]
    fn what_is_written_is_read() {
        let all = facts();
        assert_eq!(Facts::read(&written(&all)), Ok(all.clone()));
        let none =
            Facts { sni: None, alpn: None, resumed: false, group: None, client_subject: None, ..all.clone() };
        assert_eq!(written(&none).len(), 4);
        assert_eq!(Facts::read(&written(&none)), Ok(none));
        let some = Facts { alpn: None, group: None, ..all };
        assert_eq!(Facts::read(&written(&some)), Ok(some));
    }

    #[test]
    fn what_is_cut_short_too_long_or_of_another_release_is_refused() {
        let whole = written(&facts());
        for length in 0..whole.len() {
            assert!(Facts::read(&whole[..length]).is_err(), "{length}");
        }
        assert_eq!(Facts::read(&[whole.as_slice(), &[0]].concat()), Err(StateError::Damaged));
        assert_eq!(Facts::read(&[9]), Err(StateError::Format(9)));
    }

    #[test]
    fn every_group_that_has_a_name_is_known_again() {
        for number in GROUPS {
            let name = NamedGroup::from(number).as_str().unwrap();
            assert_eq!(group(name.as_bytes()), Some(name));
        }
        let of_tomorrow = Facts { group: Some("of tomorrow"), ..facts() };
        assert_eq!(Facts::read(&written(&of_tomorrow)).unwrap().group, None);
    }

    #[test]
    fn no_subject_breaks_out_of_a_header() {
        let bad = Facts { client_subject: Some("CN=a\r\nX-Admin: yes".into()), ..facts() };
        assert_eq!(Facts::read(&written(&bad)), Err(StateError::Damaged));
    }
}
