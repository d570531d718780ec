//! What a ticket remembers of a client: the time until which its certificate holds.
//!
//! rustls looks at a client's certificate only when it is shown, and each resumed session gives tickets for the next: whoever was let
//! in once would be let in for ever. So a ticket whose certificate is over is not opened, and the client must show one that holds.
//!
//! ```text
//!   rustls's text: name? ‖ version (2) ‖ suite (2) ‖ secret ‖ extended (1) ‖ certificates? ‖ …      (lengths in front: 1, 1 and 3 bytes)
//! ```
//!
//! A text of another form tells nothing here; the handshake looks again when it is over (see [`crate::Accepting`]).

use x509_parser::prelude::{FromDer as _, X509Certificate};

/// True if the text names a client's certificate that is over at `now`, in seconds since 1970.
pub(crate) fn is_over(text: &[u8], now: i64) -> bool {
    let parsed = certificate(text).and_then(|bytes| X509Certificate::from_der(bytes).ok());
    parsed.is_some_and(|(_, certificate)| now > certificate.validity().not_after.timestamp())
}

/// The certificate that the client showed.
fn certificate(text: &[u8]) -> Option<&[u8]> {
    const PRESENT: u8 = 1;
    let (has_name, rest) = text.split_first()?;
    let rest = if *has_name == PRESENT { prefixed::<1>(rest)?.1 } else { rest };
    let (_, rest) = rest.split_first_chunk::<4>()?;
    let (_, rest) = prefixed::<1>(rest)?;
    let (_, rest) = rest.split_first()?;
    let (has_certificates, rest) = rest.split_first()?;
    if *has_certificates != PRESENT {
        return None;
    }
    let (chain, _) = prefixed::<3>(rest)?;
    Some(prefixed::<3>(chain)?.0)
}

/// Bytes behind their length, which takes `N` bytes, and what follows them.
fn prefixed<const N: usize>(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<N>()?;
    let length = length.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte));
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_is_found_with_and_without_a_name() {
        for name in [&[0][..], &[1, 3, b'a', b'.', b'b']] {
            let front = [name, &[3, 4, 0x13, 1, 2, 7, 7, 1]].concat();
            let with = [&front[..], &[1, 0, 0, 9, 0, 0, 2, 8, 9, 0, 0, 1, 5, 0]].concat();
            assert_eq!(certificate(&with), Some(&[8, 9][..]));
            assert_eq!(certificate(&[&front[..], &[0, 0]].concat()), None);
            for length in 0..with.len() - 1 {
                assert_eq!(certificate(&with[..length]), None);
            }
        }
    }
}
