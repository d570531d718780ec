//! The watch on real files.
