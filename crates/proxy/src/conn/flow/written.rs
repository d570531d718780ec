//! One direction of a body, written down.
//!
//! ```text
//!   bits(raw, chunked out, full reads, bare)  reader: see `handover_http1::BodyReader::write`
//! ```

use handover_http1::{BodyReader, Side};

use super::Flow;
use crate::moving::bytes::Input;

const RAW: u8 = 1;
const CHUNKED_OUT: u8 = 2;
const FULL_READS: u8 = 4;
const BARE: u8 = 8;

impl Flow {
    /// Appends everything that another process needs to go on.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.push(
            flag(self.raw, RAW)
                | flag(self.chunked_out, CHUNKED_OUT)
                | flag(self.full_reads, FULL_READS)
                | flag(self.bare, BARE),
        );
        self.reader.write(out);
    }

    /// What [`Flow::write`] wrote at the front of `input`. `None`: nothing of the kind.
    pub(crate) fn read(input: &mut Input<'_>) -> Option<Self> {
        let flags = input.byte().ok()?;
        let has = |flag: u8| flags & flag != 0;
        let rest = input.rest();
        let (reader, behind) = BodyReader::read(rest)?;
        input.take(rest.len() - behind.len()).ok()?;
        let flow = Self {
            reader,
            raw: has(RAW),
            chunked_out: has(CHUNKED_OUT),
            // Both are said whenever something was read.
            read: reader.is_done(),
            full_reads: has(FULL_READS),
            bare: has(BARE),
        };
        // Of a body that is read nobody knows any more how it came.
        let framed = flow.chunked_out || reader.is_chunked();
        let fits = if flow.read { !(flow.raw && flow.chunked_out) } else { flow.raw != framed };
        (fits && flags & !(RAW | CHUNKED_OUT | FULL_READS | BARE) == 0).then_some(flow)
    }

    /// The side from which the body comes.
    pub(crate) fn side(&self) -> Side {
        self.reader.side()
    }

    /// True for a direction of a tunnel.
    pub(crate) fn is_endless(&self) -> bool {
        self.raw && !self.bare && self.reader.remaining_length().is_none()
    }
}
