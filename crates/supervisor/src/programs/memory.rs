//! How much memory a copy uses.
