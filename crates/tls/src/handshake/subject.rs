//! The subject of a certificate that still holds, as text: RFC 4514, in ASCII that is safe in a header.

use std::fmt::Write as _;

use x509_parser::asn1_rs::Tag;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use crate::alert::Alert;

/// The longest text that is given on, in bytes: it goes into a header.
pub(super) const SUBJECT_BYTES: usize = 4_096;

/// The subject of the certificate that a client showed, now or in a session that it resumes, if it still holds at `now`, in seconds
/// since 1970.
///
/// # Errors
/// What the client is told, and why.
pub(super) fn shown(certificate: &[u8], now: Option<i64>) -> Result<Box<str>, (Alert, &'static str)> {
    let parsed = X509Certificate::from_der(certificate).ok();
    let until = parsed.as_ref().map(|(_, certificate)| certificate.validity().not_after.timestamp());
    if until.zip(now).is_some_and(|(until, now)| now > until) {
        return Err((Alert::CERTIFICATE_EXPIRED, "it has expired"));
    }
    let text = parsed.map(|(_, certificate)| text(certificate.subject()));
    let text = text.filter(|text| text.len() <= SUBJECT_BYTES);
    let unfit = (Alert::UNSUPPORTED_CERTIFICATE, "its subject cannot be read, or is longer than 4096 bytes");
    text.map(String::into_boxed_str).ok_or(unfit)
}

/// RFC 4514 §2.1: the last part first.
fn text(name: &X509Name<'_>) -> String {
    let mut parts: Vec<_> = name.iter_rdn().collect();
    parts.reverse();
    let mut text = String::new();
    for (at, part) in parts.into_iter().enumerate() {
        for (nth, attribute) in part.iter().enumerate() {
            match (at, nth) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            push(attribute, &mut text);
        }
    }
    text
}

/// RFC 4514 §2.3 and §2.4: a known type by its name, with its value as text; anything else as numbers.
fn push(attribute: &AttributeTypeAndValue<'_>, text: &mut String) {
    let value = attribute.attr_value();
    let readable = match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            std::str::from_utf8(value.data).ok()
        }
        _ => None,
    };
    let number = attribute.attr_type().to_id_string();
    let name = known(&number);
    text.push_str(name.unwrap_or(&number));
    text.push('=');
    match (name, readable) {
        (Some(_), Some(readable)) => escape(readable, text),
        _ => {
            text.push('#');
            hex(&[u8::try_from(value.tag().0).unwrap_or_default()], text);
            hex(&der_length(value.data.len()), text);
            hex(value.data, text);
        }
    }
}

/// The length in front of a value, as DER writes it (X.690 §8.1.3).
fn der_length(length: usize) -> Vec<u8> {
    match u8::try_from(length) {
        Ok(short @ 0..=127) => vec![short],
        _ => {
            let bytes = length.to_be_bytes();
            let significant: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
            let count = u8::try_from(significant.len()).unwrap_or_default();
            std::iter::once(0x80 | count).chain(significant).collect()
        }
    }
}

/// The names of RFC 4514 §3, and registered ones that certificates use.
fn known(number: &str) -> Option<&'static str> {
    Some(match number {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "sn",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "STREET",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "givenName",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        "1.2.840.113549.1.9.1" => "emailAddress",
        _ => return None,
    })
}

/// RFC 4514 §2.4. What is not printable ASCII is written in hexadecimal, as the RFC allows for any byte: so no subject
/// can break out of a header.
fn escape(value: &str, text: &mut String) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b'"' | b'+' | b',' | b';' | b'<' | b'>' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                text.push('\\');
                hex(&[byte], text);
            }
        }
    }
}

fn hex(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        let _ = write!(text, "{byte:02X}");
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

    use super::*;

    fn subject_of(parts: &[(DnType, &str)]) -> Box<str> {
        let mut params = CertificateParams::new(vec!["example.org".to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in parts {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        shown(certificate.der(), None).unwrap()
    }

    #[test]
    fn the_last_part_comes_first() {
        let parts = [
            (DnType::CountryName, "DE"),
            (DnType::OrganizationName, "Example"),
            (DnType::CommonName, "Ann Other"),
        ];
        assert_eq!(&*subject_of(&parts), "CN=Ann Other,O=Example,C=DE");
    }

    #[test]
    fn what_has_a_meaning_is_escaped() {
        let parts = [(DnType::CommonName, " #a+b,c;d<e>f\\g\"h= ")];
        assert_eq!(&*subject_of(&parts), r#"CN=\ #a\+b\,c\;d\<e\>f\\g\"h=\ "#);
        assert_eq!(&*subject_of(&[(DnType::CommonName, "#1")]), r"CN=\#1");
    }

    #[test]
    fn no_subject_breaks_out_of_a_header() {
        let parts = [(DnType::CommonName, "a\r\nX-Admin: yes\0"), (DnType::OrganizationName, "Zoë")];
        assert_eq!(&*subject_of(&parts), r"O=Zo\C3\AB,CN=a\0D\0AX-Admin: yes\00");
    }

    #[test]
    fn an_unknown_type_is_written_as_numbers() {
        let parts = [(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 99_999, 1]), "AB")];
        assert_eq!(&*subject_of(&parts), "1.3.6.1.4.1.99999.1=#0C024142");
    }

    #[test]
    fn what_is_no_certificate_has_no_subject() {
        assert_eq!(shown(b"nothing", None).unwrap_err().0, Alert::UNSUPPORTED_CERTIFICATE);
        assert_eq!(der_length(5), [5]);
        assert_eq!(der_length(300), [0x82, 1, 44]);
    }
}
