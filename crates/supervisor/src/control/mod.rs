//! The control server: HTTP/1.1 on a Unix socket, for the command line, curl, and whoever else may.
//!
//! ```text
//!  connection ─▶ who is it? (SO_PEERCRED) ─▶ Role ─▶ route ─▶ driver ─▶ Answer ─▶ text or JSON
//!                                              │
//!                                              └─ not enough: 403, and a change that was asked for is journaled
//! ```
//!
//! | module | what for |
//! |---|---|
//! | `server` | connections: how many, how long, who |
//! | `role` | what a peer may do |
//! | `asked` | query and headers of a request, parsed once |
//! | `looking`, `changing`, `programs`, `logs`, `archiving`, `events` | the endpoints |
//! | `expiring` | which certificates the status names |
//! | `answer` | answers, as one sentence for people or as JSON for programs |
//! | `crossing` | answers that come from the program which the supervisor has become meanwhile |
//! | `openapi` | the description that `docs/openapi.json` holds |
//!
//! Everything is bounded: connections in all and for each user, heads, bodies, the time in which they must
//! arrive, event streams, and refused requests that are written into the journal. A client that goes away
//! does not call off what it asked for: the operation goes on, and can be asked for by its ID.

mod answer;
#[allow(unused_qualifications, reason = "what utoipa's macros write")]
mod archiving;
mod asked;
#[allow(unused_qualifications, reason = "what utoipa's macros write")]
mod changing;
mod crossing;
mod events;
mod expiring;
#[allow(unused_qualifications, reason = "what utoipa's macros write")]
mod logs;
#[allow(unused_qualifications, reason = "what utoipa's macros write")]
mod looking;
#[allow(unused_qualifications, reason = "what utoipa's macros write")]
mod openapi;
#[allow(unused_qualifications, reason = "what utoipa's macros write")]
mod programs;
mod role;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use crossing::{Crossing, Waiter};
pub use openapi::description;
pub use role::Role;
pub use server::serve;
