//! Copies that reload, or say that they do.
