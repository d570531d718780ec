//! How a program is told to read its configuration anew, and what came of it.
