//! The smallest pieces of states that travel: numbers in as few bytes as they need, and bytes behind their length.
//!
//! A varint has seven bits in each byte, the lowest first; all but the last byte have the highest bit set.

/// Bytes that are not what they should be: too few, too many, or ones that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state of a connection is damaged")]
pub(crate) struct Damaged;

/// The most bytes of a varint.
const VARINT_BYTES: usize = 10;

/// Appends a number.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

/// Appends bytes behind their length.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes that are being read from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// True if nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Everything that is left.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Damaged> {
        let (front, rest) = self.0.split_at_checked(count).ok_or(Damaged)?;
        self.0 = rest;
        Ok(front)
    }

    /// The next byte.
    pub(crate) fn byte(&mut self) -> Result<u8, Damaged> {
        self.take(1)?.first().copied().ok_or(Damaged)
    }

    /// A number; only its shortest form.
    pub(crate) fn varint(&mut self) -> Result<u64, Damaged> {
        let mut value = 0_u64;
        for place in 0..VARINT_BYTES {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * place;
            if bits << shift >> shift != bits || (byte == 0 && place > 0) {
                return Err(Damaged);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damaged)
    }

    /// A number that counts something in memory.
    pub(crate) fn count(&mut self) -> Result<usize, Damaged> {
        usize::try_from(self.varint()?).map_err(|_| Damaged)
    }

    /// Bytes behind their length.
    pub(crate) fn bytes(&mut self) -> Result<&'a [u8], Damaged> {
        let length = self.count()?;
        self.take(length)
    }

    /// Text behind its length.
    pub(crate) fn text(&mut self) -> Result<&'a str, Damaged> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bytes_are_read_as_they_were_written() {
        let mut out = Vec::new();
        let numbers = [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
        numbers.iter().for_each(|number| put_varint(&mut out, *number));
        put_bytes(&mut out, b"some");
        put_bytes(&mut out, "Zoë".as_bytes());
        let mut input = Input::new(&out);
        for number in numbers {
            assert_eq!(input.varint(), Ok(number));
        }
        assert_eq!(input.bytes(), Ok(b"some".as_slice()));
        assert_eq!(input.text(), Ok("Zoë"));
        assert!(input.is_empty());
        assert_eq!(input.byte(), Err(Damaged));
    }

    #[test]
    fn a_number_has_one_form_and_an_end() {
        for bad in
            [&[0x80][..], &[0x80, 0], &[0xff; 10], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert_eq!(Input::new(bad).varint(), Err(Damaged), "{bad:?}");
        }
        assert_eq!(Input::new(&[5, 1, 2]).bytes(), Err(Damaged));
        assert_eq!(Input::new(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]).bytes(), Err(Damaged));
        assert_eq!(Input::new(&[1, 0xff]).text(), Err(Damaged));
    }
}
