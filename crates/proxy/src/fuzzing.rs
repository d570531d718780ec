//! What reads bytes from outside, by itself: for `fuzz/`.

use crate::conn::state;

/// Reads connections that were written down. What can be read is the same when it is written and read again.
///
/// # Panics
/// If it is not.
pub fn read_connections(format: u16, bytes: &[u8]) {
    let Ok(section) = state::read(format, bytes) else { return };
    let written = section.write(format);
    let again = state::read(format, &written).map(|section| section.write(format));
    assert!(again.is_ok_and(|again| again == written), "what was read is not what was written");
}
