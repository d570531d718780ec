//! Copying header lines from the buffer they were parsed in, by stretches: what stands between two marked lines is
//! one copy, however many lines it has.

use crate::header::{Header, offset_in};

/// Appends `raw[from..]` without the ending empty line, leaving out the `dropped` lines and writing the `odd` ones
/// anew. `from` is 0 to take the first line along, or where the header lines begin.
pub(crate) fn copy_lines(
    out: &mut Vec<u8>,
    raw: &[u8],
    from: usize,
    headers: &[Header<'_>],
    dropped: u128,
    odd: u128,
) {
    let end = raw.len().saturating_sub(2);
    let mut from = from;
    let mut marked = dropped | odd;
    while marked != 0 {
        let at = marked.trailing_zeros() as usize;
        marked &= marked - 1;
        let Some(header) = headers.get(at) else { break };
        let line = offset_in(raw, header.name.as_ptr());
        out.extend_from_slice(raw.get(from..line).unwrap_or_default());
        if dropped & (1 << at) == 0 {
            push_header(out, header.name.as_bytes(), header.value);
        }
        from = headers.get(at + 1).map_or(end, |next| offset_in(raw, next.name.as_ptr()));
    }
    out.extend_from_slice(raw.get(from..end).unwrap_or_default());
}

/// Appends one line.
pub(crate) fn push_header(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Digits of the largest `u64`.
const MAX_DECIMAL_DIGITS: usize = 20;

/// Appends a number in decimal.
pub(crate) fn push_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut text = [0u8; MAX_DECIMAL_DIGITS];
    let mut first = MAX_DECIMAL_DIGITS;
    for place in text.iter_mut().rev() {
        // A remainder by ten fits a byte.
        *place = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
        first -= 1;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(text.get(first..).unwrap_or_default());
}

/// Appends `Content-Length: N`.
pub(crate) fn push_content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    push_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

/// `Transfer-Encoding: chunked`.
pub(crate) const CHUNKED_LINE: &[u8] = b"Transfer-Encoding: chunked\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_full() {
        for number in [0, 1, 9, 10, 99, 100, 12_345, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            push_decimal(&mut out, number);
            assert_eq!(out, number.to_string().as_bytes());
        }
    }
}
