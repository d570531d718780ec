//! Fakes of stores.
