//! Buffers, and the free list that each thread keeps of them.
//!
//! A connection that waits for its next request holds no buffer at all: ten thousand idle connections cost a few
//! hundred bytes each. Buffers come in two sizes, [`SMALL_BYTES`] for heads and short bodies and [`LARGE_BYTES`] for bodies that
//! stream, and go back to the thread's list when they are empty.

use std::mem;

/// Size of an ordinary buffer: a head and a short body.
pub(crate) const SMALL_BYTES: usize = 16 * 1024;
/// Size of a buffer for a body that streams: fewer, larger system calls.
pub(crate) const LARGE_BYTES: usize = 128 * 1024;
/// The most free buffers of each size that a thread keeps; more are given back to the allocator.
const KEPT_SMALL: usize = 256;
const KEPT_LARGE: usize = 32;

/// Bytes on their way: written at the end, read from the front. Without capacity it holds no memory.
#[derive(Debug, Default)]
pub(crate) struct Buf {
    bytes: Vec<u8>,
    start: usize,
    /// Its memory as [`Buffers`] counts it: a long head may have made the vector grow since.
    counted: usize,
}

impl Buf {
    /// A buffer that holds no memory.
    pub(crate) const fn none() -> Self {
        Self { bytes: Vec::new(), start: 0, counted: 0 }
    }

    /// True if it holds memory, even if that is empty.
    pub(crate) fn is_held(&self) -> bool {
        self.bytes.capacity() != 0
    }

    /// True if there is nothing to read.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Bytes that can be read.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// What can be read.
    pub(crate) fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    /// Takes `count` bytes from the front, at most all.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
        if self.start == self.bytes.len() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Reads again what was consumed since the buffer was last empty: for sending a request once more.
    pub(crate) fn rewind_to(&mut self, start: usize) {
        self.start = start.min(self.bytes.len());
    }

    /// Takes `count` bytes from the front but keeps them, so that [`Buf::rewind_to`] can bring them back.
    pub(crate) fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.bytes.len());
    }

    /// Everything that it holds, and how much at the front of that was consumed already.
    pub(crate) fn whole(&self) -> (&[u8], usize) {
        (&self.bytes, self.start)
    }

    /// Forgets everything in it; the memory stays.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// The vector to append to. What is before the read position must be left alone.
    pub(crate) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Moves what is unread to the front if the room behind it has become small.
    pub(crate) fn make_room(&mut self) {
        if self.start != 0 && self.bytes.capacity() - self.bytes.len() < self.bytes.capacity() / 2 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
    }

    /// Bytes that can be appended without allocation.
    pub(crate) fn room(&self) -> usize {
        self.bytes.capacity() - self.bytes.len()
    }

    /// Size of the memory that it holds.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }
}

/// One thread's free buffers.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    bytes_out: usize,
}

impl Buffers {
    /// Gives `buf` memory for a head or a short body, unless it has some.
    pub(crate) fn ensure_small(&mut self, buf: &mut Buf) {
        if !buf.is_held() {
            buf.bytes = self.small.pop().unwrap_or_else(|| Vec::with_capacity(SMALL_BYTES));
            buf.start = 0;
            buf.counted = buf.bytes.capacity();
            self.bytes_out += buf.counted;
        }
    }

    /// Gives `buf` the memory of a streaming body, keeping what is in it.
    pub(crate) fn ensure_large(&mut self, buf: &mut Buf) {
        if buf.capacity() >= LARGE_BYTES {
            return;
        }
        let mut bytes = self.large.pop().unwrap_or_else(|| Vec::with_capacity(LARGE_BYTES));
        bytes.extend_from_slice(buf.unread());
        let counted = bytes.capacity();
        self.bytes_out += counted;
        let old = mem::replace(buf, Buf { bytes, start: 0, counted });
        self.put(old);
    }

    /// Lets `buf` grow to hold `total` bytes in all: for heads longer than an ordinary buffer.
    pub(crate) fn grow(&mut self, buf: &mut Buf, total: usize) {
        buf.make_room();
        let missing = total.saturating_sub(buf.bytes.len());
        buf.bytes.reserve_exact(missing);
        self.bytes_out = self.bytes_out.saturating_sub(buf.counted) + buf.capacity();
        buf.counted = buf.capacity();
    }

    /// Puts bytes into `buf`, which holds none, of which `start` are consumed already. Without bytes it holds no memory.
    pub(crate) fn fill(&mut self, buf: &mut Buf, bytes: &[u8], start: usize) {
        if bytes.is_empty() {
            return;
        }
        if bytes.len() <= SMALL_BYTES {
            self.ensure_small(buf);
        } else {
            self.ensure_large(buf);
        }
        if bytes.len() > buf.capacity() {
            self.grow(buf, bytes.len());
        }
        buf.bytes.extend_from_slice(bytes);
        buf.start = start.min(bytes.len());
    }

    /// Leaves `buf` no more memory than what is in it needs: for what waits long. To be undone before anything is read into it.
    pub(crate) fn shrink(&mut self, buf: &mut Buf) {
        if buf.is_empty() || buf.len() * 2 > buf.capacity() {
            return;
        }
        let bytes = buf.unread().to_vec();
        let counted = bytes.capacity();
        self.bytes_out += counted;
        self.put(mem::replace(buf, Buf { bytes, start: 0, counted }));
    }

    /// Gives a buffer that was shrunk an ordinary one's memory again.
    pub(crate) fn unshrink(&mut self, buf: &mut Buf) {
        if !buf.is_held() || buf.capacity() >= SMALL_BYTES {
            return;
        }
        let mut roomy = Buf::none();
        self.fill(&mut roomy, buf.unread(), 0);
        self.put(mem::replace(buf, roomy));
    }

    /// Takes the memory of `buf` back, with what is in it.
    pub(crate) fn release(&mut self, buf: &mut Buf) {
        if buf.is_held() {
            self.put(mem::take(buf));
        }
    }

    /// Takes the memory of `buf` back if nothing is in it.
    pub(crate) fn release_if_empty(&mut self, buf: &mut Buf) {
        if buf.is_empty() {
            self.release(buf);
        }
    }

    /// Bytes of memory that connections hold now.
    pub(crate) fn bytes_out(&self) -> usize {
        self.bytes_out
    }

    fn put(&mut self, buf: Buf) {
        self.bytes_out = self.bytes_out.saturating_sub(buf.counted);
        let mut bytes = buf.bytes;
        bytes.clear();
        if bytes.capacity() == SMALL_BYTES && self.small.len() < KEPT_SMALL {
            self.small.push(bytes);
        } else if bytes.capacity() == LARGE_BYTES && self.large.len() < KEPT_LARGE {
            self.large.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_released_is_used_again() {
        let mut buffers = Buffers::default();
        let mut buf = Buf::none();
        buffers.ensure_small(&mut buf);
        buf.tail().extend_from_slice(b"hello");
        assert_eq!(buffers.bytes_out(), SMALL_BYTES);
        buf.consume(2);
        assert_eq!(buf.unread(), b"llo");
        buffers.ensure_large(&mut buf);
        assert_eq!(buf.unread(), b"llo");
        assert_eq!(buffers.bytes_out(), LARGE_BYTES);
        buffers.release(&mut buf);
        assert_eq!(buffers.bytes_out(), 0);
        assert!(!buf.is_held());
        assert_eq!((buffers.small.len(), buffers.large.len()), (1, 1));
    }

    #[test]
    fn a_buffer_that_grew_by_itself_is_counted_out_as_it_was_counted_in() {
        let mut buffers = Buffers::default();
        let (mut other, mut buf) = (Buf::none(), Buf::none());
        buffers.ensure_small(&mut other);
        for grow in [false, true] {
            buffers.ensure_small(&mut buf);
            buf.tail().resize(3 * SMALL_BYTES, 0);
            if grow {
                buffers.grow(&mut buf, 8 * SMALL_BYTES);
                assert_eq!(buffers.bytes_out(), SMALL_BYTES + buf.capacity());
            }
            buffers.release(&mut buf);
            assert_eq!(buffers.bytes_out(), SMALL_BYTES);
        }
    }

    #[test]
    fn what_waits_long_holds_no_more_than_it_needs() {
        let mut buffers = Buffers::default();
        let mut buf = Buf::none();
        buffers.ensure_small(&mut buf);
        buf.tail().extend_from_slice(b"xxGET / HTTP/1.1\r\n\r\n");
        buf.consume(2);
        buffers.shrink(&mut buf);
        assert_eq!((buf.unread(), buffers.bytes_out()), (&b"GET / HTTP/1.1\r\n\r\n"[..], 18));
        buffers.shrink(&mut buf);
        buffers.unshrink(&mut buf);
        assert_eq!((buf.len(), buf.room(), buffers.bytes_out()), (18, SMALL_BYTES - 18, SMALL_BYTES));
        buffers.release(&mut buf);
        assert_eq!(buffers.bytes_out(), 0);
    }

    #[test]
    fn what_was_sent_can_be_sent_once_more() {
        let mut buf = Buf::none();
        buf.tail().extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
        buf.advance(18);
        assert!(buf.is_empty());
        buf.rewind_to(0);
        assert_eq!(buf.len(), 18);
    }
}
