//! Header fields as they stand in the buffer.

use std::mem::MaybeUninit;

use crate::limits::MAX_HEADERS;

/// One header line: a name (a token, case as sent) and a value without the whitespace around it.
pub type Header<'b> = httparse::Header<'b>;

/// Room for the header lines of one head, on the caller's stack. Making one costs nothing: it is not zeroed.
#[derive(Debug)]
pub struct HeaderStorage<'b> {
    pub(crate) slots: [MaybeUninit<Header<'b>>; MAX_HEADERS],
}

impl HeaderStorage<'_> {
    /// Room for [`MAX_HEADERS`] headers.
    #[inline]
    #[must_use]
    pub const fn new() -> Self {
        Self { slots: [const { MaybeUninit::uninit() }; MAX_HEADERS] }
    }
}

impl Default for HeaderStorage<'_> {
    fn default() -> Self {
        Self::new()
    }
}
