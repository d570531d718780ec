//! Live connections go to another worker, and come from one.

pub(crate) mod bytes;
pub(crate) mod facts;
