//! Pauses between tries, and connections that a copy has accepted.
