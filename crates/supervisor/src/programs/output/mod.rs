//! What programs write, line by line.
