//! The layout of one frame, and how messages are cut into frames and put together again.
//!
//! A frame is one datagram of the `SOCK_SEQPACKET` socket: a fixed header, then (in a message's first
//! frame only) the body. Descriptors ride beside it as `SCM_RIGHTS`; the kernel takes at most 253 in
//! one datagram, so a message with more of them is cut: the first frame carries the body, the frames
//! after it only descriptors, each saying how many are still to come.
//!
//! ```text
//! offset  0        4         6       8         12            16      20          24
//!         ┌────────┬─────────┬───────┬─────────┬─────────────┬───────┬───────────┬──────
//!         │ "HOVR" │ version │ flags │ message │ body length │  fds  │ fds later │ body …
//!         └────────┴─────────┴───────┴─────────┴─────────────┴───────┴───────────┴──────
//! ```
//!
//! All integers are little-endian. The flag [`CONTINUES`] marks every frame but the first of a message;
//! [`BODY_IN_MEMFD`] says that the body is in a sealed memory file, which is then the first descriptor.
//!
//! Everything here is pure: what a descriptor is, is left open (`F`), so that the cutting and the
//! putting together can be tested with numbers in their place.

use super::ChannelError;

/// The first four bytes of every frame.
pub const MAGIC: [u8; 4] = *b"HOVR";
/// The version of this layout. A peer that speaks another one is refused at its first frame.
pub const FRAME_VERSION: u16 = 1;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 24;
/// The kernel's limit of descriptors in one datagram (`SCM_MAX_FD`, unix(7)).
pub const MAX_FDS_PER_FRAME: usize = 253;
/// The most descriptors that one message may carry, the memory file of a long body included.
pub const MAX_FDS_PER_MESSAGE: usize = 4096;
/// The longest body that travels inside the datagram; longer ones go into a sealed memory file.
pub const MAX_INLINE_BODY_BYTES: usize = 32 * 1024;
/// The longest body at all.
pub const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
/// Room for the largest frame.
pub const MAX_FRAME_BYTES: usize = HEADER_BYTES + MAX_INLINE_BODY_BYTES;

/// Header flag: not the first frame of its message; it carries descriptors only.
pub const CONTINUES: u16 = 1;
/// Header flag: the body is in a memory file, the message's first descriptor.
pub const BODY_IN_MEMFD: u16 = 2;

/// The fields of a frame's header, checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`CONTINUES`] and [`BODY_IN_MEMFD`].
    pub flags: u16,
    /// The message's number, the same in all its frames.
    pub message: u32,
    /// Bytes of the body, wherever it is; 0 in frames that continue.
    pub body_bytes: u32,
    /// Descriptors that ride beside this frame.
    pub fds: u32,
    /// Descriptors of the same message in later frames.
    pub fds_later: u32,
}

impl Header {
    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&FRAME_VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.flags.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.message.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.body_bytes.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.fds.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.fds_later.to_le_bytes());
        bytes
    }

    /// Reads and checks a frame's header; the rest of `frame` is returned beside it.
    ///
    /// # Errors
    /// [`ChannelError::Protocol`] for anything that [`Header::encode`] cannot have written,
    /// [`ChannelError::Version`] for another layout version.
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), ChannelError> {
        let Some((head, body)) = frame.split_first_chunk::<HEADER_BYTES>() else {
            return Err(ChannelError::Protocol("a frame is shorter than its header"));
        };
        if head[0..4] != MAGIC {
            return Err(ChannelError::Protocol("a frame does not start with HOVR"));
        }
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version != FRAME_VERSION {
            return Err(ChannelError::Version { theirs: version, ours: FRAME_VERSION });
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let header = Header {
            flags: u16::from_le_bytes([head[6], head[7]]),
            message: word(8),
            body_bytes: word(12),
            fds: word(16),
            fds_later: word(20),
        };
        header.check(body.len())?;
        Ok((header, body))
    }

    fn check(&self, present: usize) -> Result<(), ChannelError> {
        let (fds, later) = (self.fds as usize, self.fds_later as usize);
        if self.flags & !(CONTINUES | BODY_IN_MEMFD) != 0 {
            return Err(ChannelError::Protocol("a frame has unknown flags"));
        }
        if fds > MAX_FDS_PER_FRAME || later > MAX_FDS_PER_MESSAGE - fds {
            return Err(ChannelError::Protocol("a frame announces too many descriptors"));
        }
        let inline = if self.flags == 0 { self.body_bytes as usize } else { 0 };
        if inline != present {
            return Err(ChannelError::Protocol("a frame's length is not what its header says"));
        }
        if self.flags & CONTINUES != 0 && (self.flags != CONTINUES || self.body_bytes != 0 || fds == 0) {
            return Err(ChannelError::Protocol("a continuing frame carries something else than descriptors"));
        }
        if self.flags == BODY_IN_MEMFD && (self.body_bytes as usize > MAX_BODY_BYTES || fds == 0) {
            return Err(ChannelError::Protocol("a frame announces a body that it cannot have"));
        }
        Ok(())
    }
}

/// One frame to be sent: its bytes, and which of the message's descriptors ride beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Header and, if it is in the frame, body.
    pub bytes: Vec<u8>,
    /// The range of the message's descriptors that belongs to this frame.
    pub fds: std::ops::Range<usize>,
}

/// Where the body of a message that is to be cut is.
#[derive(Debug, Clone, Copy)]
pub enum Placed<'a> {
    /// In the first frame: at most [`MAX_INLINE_BODY_BYTES`].
    Inline(&'a [u8]),
    /// In a memory file of this many bytes, which is the first of the message's descriptors.
    Memfd(u32),
}

/// Cuts a message into frames. `fds` counts all its descriptors, a memory file of the body included.
///
/// # Errors
/// [`ChannelError::TooManyDescriptors`] and [`ChannelError::TooBig`].
pub fn split(message: u32, body: Placed<'_>, fds: usize) -> Result<Vec<Frame>, ChannelError> {
    if fds > MAX_FDS_PER_MESSAGE {
        return Err(ChannelError::TooManyDescriptors { count: fds, limit: MAX_FDS_PER_MESSAGE });
    }
    let (mut flags, mut inline, mut body_bytes) = match body {
        Placed::Inline(bytes) if bytes.len() > MAX_INLINE_BODY_BYTES => {
            return Err(ChannelError::TooBig { bytes: bytes.len(), limit: MAX_INLINE_BODY_BYTES });
        }
        Placed::Inline(bytes) => (0, bytes, u32::try_from(bytes.len()).unwrap_or(u32::MAX)),
        Placed::Memfd(length) => (BODY_IN_MEMFD, &[][..], length),
    };
    let mut frames = Vec::with_capacity(1 + fds / MAX_FDS_PER_FRAME);
    let mut at = 0;
    loop {
        let now = (fds - at).min(MAX_FDS_PER_FRAME);
        let later = fds - at - now;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let header = Header { flags, message, body_bytes, fds: count(now), fds_later: count(later) };
        let mut bytes = Vec::with_capacity(HEADER_BYTES + inline.len());
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(inline);
        frames.push(Frame { bytes, fds: at..at + now });
        at += now;
        if at == fds {
            return Ok(frames);
        }
        (flags, inline, body_bytes) = (CONTINUES, &[], 0);
    }
}

/// A whole message, as it was sent.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole<F> {
    /// The body, or the memory file with this many bytes of it.
    pub body: Body<F>,
    /// The descriptors, without the body's memory file, in the order in which they were sent.
    pub fds: Vec<F>,
}

/// The body of a received message.
#[derive(Debug, PartialEq, Eq)]
pub enum Body<F> {
    /// The bytes themselves.
    Inline(Vec<u8>),
    /// They are in this memory file.
    Memfd {
        /// The memory file; its seals are not checked yet.
        file: F,
        /// Its length, as announced.
        bytes: u32,
    },
}

/// Puts frames together again.
#[derive(Debug)]
pub struct Assembler<F> {
    partial: Option<Partial<F>>,
}

#[derive(Debug)]
struct Partial<F> {
    first: Header,
    body: Vec<u8>,
    fds: Vec<F>,
    later: usize,
}

impl<F> Default for Assembler<F> {
    fn default() -> Self {
        Self { partial: None }
    }
}

impl<F> Assembler<F> {
    /// Takes one frame and the descriptors that came with it; gives the message when it is whole.
    ///
    /// # Errors
    /// [`ChannelError::Protocol`] when the frame does not fit what came before it. What was gathered of
    /// the message is dropped (and its descriptors with it): after an error the channel is of no more use.
    pub fn push(&mut self, frame: &[u8], fds: Vec<F>) -> Result<Option<Whole<F>>, ChannelError> {
        let before = self.partial.take();
        let (header, body) = Header::decode(frame)?;
        if header.fds as usize != fds.len() {
            return Err(ChannelError::Protocol("a frame came without all of its descriptors"));
        }
        let later = header.fds_later as usize;
        let partial = match before {
            None if header.flags & CONTINUES != 0 => {
                return Err(ChannelError::Protocol("a frame continues a message that never began"));
            }
            None => Partial { first: header, body: body.to_vec(), fds, later },
            Some(mut partial) => {
                if header.flags & CONTINUES == 0 || header.message != partial.first.message {
                    return Err(ChannelError::Protocol("a message began before the last one was whole"));
                }
                if partial.later != fds.len() + later {
                    return Err(ChannelError::Protocol("a message's descriptors do not add up"));
                }
                partial.fds.extend(fds);
                partial.later = later;
                partial
            }
        };
        if partial.later > 0 {
            self.partial = Some(partial);
            return Ok(None);
        }
        Ok(Some(partial.finish()))
    }

    /// Whether a message has begun and is not whole yet.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        self.partial.is_some()
    }
}

impl<F> Partial<F> {
    fn finish(self) -> Whole<F> {
        let mut fds = self.fds.into_iter();
        let body = if self.first.flags & BODY_IN_MEMFD != 0 {
            // `Header::check` saw to it that there is one.
            match fds.next() {
                Some(file) => Body::Memfd { file, bytes: self.first.body_bytes },
                None => Body::Inline(self.body),
            }
        } else {
            Body::Inline(self.body)
        };
        Whole { body, fds: fds.collect() }
    }
}
