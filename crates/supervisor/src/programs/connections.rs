//! Which process has which connection.
