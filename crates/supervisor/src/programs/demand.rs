//! The first connection, and idleness.
