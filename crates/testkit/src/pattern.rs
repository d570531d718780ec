//! Bodies that can be checked byte for byte without being kept: byte `i` of a body is a function of `i`.

/// Byte number `position` of the pattern. Its period (251 × 256) is no power of two, so that a piece that is
/// missing, repeated or moved by a buffer's length shows.
#[must_use]
pub fn byte_at(position: u64) -> u8 {
    let low = u8::try_from(position % 251).unwrap_or_default();
    let high = u8::try_from((position / 251) % 256).unwrap_or_default();
    low ^ high
}

/// Fills `piece` with the pattern from `position` on.
pub fn fill(position: u64, piece: &mut [u8]) {
    for (byte, at) in piece.iter_mut().zip(position..) {
        *byte = byte_at(at);
    }
}

/// The first `length` bytes of the pattern.
#[must_use]
pub fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fill(0, &mut bytes);
    bytes
}

/// Checks a body that arrives in pieces.
#[derive(Debug, Default, Clone, Copy)]
pub struct Check {
    seen: u64,
}

impl Check {
    /// Takes the next piece; tells the position of the first wrong byte.
    ///
    /// # Errors
    /// The position (in the whole body) of the first byte that is not the pattern's.
    pub fn piece(&mut self, piece: &[u8]) -> Result<(), u64> {
        for byte in piece {
            if *byte != byte_at(self.seen) {
                return Err(self.seen);
            }
            self.seen += 1;
        }
        Ok(())
    }

    /// How many bytes were right so far.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_piece_is_noticed() {
        let body = bytes(100_000);
        let mut check = Check::default();
        check.piece(&body[..4096]).unwrap();
        assert!(check.piece(&body[8192..]).is_err());
    }

    #[test]
    fn a_whole_body_in_pieces_is_right() {
        let mut check = Check::default();
        for piece in bytes(100_000).chunks(777) {
            check.piece(piece).unwrap();
        }
        assert_eq!(check.seen(), 100_000);
    }
}
