//! Tests of the states of connections.
