//! How a copy is known to be ready.
