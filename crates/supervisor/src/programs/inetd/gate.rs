//! How many processes may be started, and how fast.
