//! HTTP/1.1 without I/O: heads, bodies, and how they are rewritten on their way through a proxy.
//!
//! Nothing here reads, writes, waits, or allocates for a message: the caller brings bytes, and gets back what
//! they mean, borrowed from its own buffer. What can be read in two ways is refused ([`Refusal`]), never repaired.
//!
//! ```text
//!  client bytes ─ parse_request_head ─▶ RequestHead ─ write_request_head ─▶ upstream bytes
//!                 BodyReader (request) ─▶ ranges ─── write_chunk_header ─▶
//!
//!  upstream bytes ─ parse_response_head ─▶ ResponseHead ─ write_response_head ─▶ client bytes
//!                   BodyReader (response) ─▶ ranges ──── write_chunk_header ─▶
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod body;
mod chunked;
mod copy;
mod date;
mod diagnose;
mod forward;
mod framing;
mod header;
pub mod limits;
mod message;
mod refusal;
mod render;
mod reply;
mod request;
mod response;
mod rules;
mod scan;
mod status;
mod target;
mod trailers;
mod written;

pub use body::{BodyReader, BodyState, Side, Step};
pub use date::DateText;
pub use forward::{ClientLabel, ClientSent, RequestRules, write_request_head};
pub use header::{Header, HeaderStorage};
pub use limits::HeadLimits;
pub use message::{BodyKind, Parsed, Version};
pub use refusal::Refusal;
pub use render::{
    CHUNK_END, CONTINUE, Delivery, MAX_CHUNK_HEADER_BYTES, Prepared, write_chunk_header, write_last_chunk,
    write_own_head, write_plain,
};
pub use reply::{Outgoing, ToClient, write_response_head};
pub use request::{RequestHead, parse_request_head};
pub use response::{Asked, ResponseHead, parse_response_head};
pub use rules::{HeaderRules, RuleError};
pub use status::reason_phrase;
pub use target::Host;
