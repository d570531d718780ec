//! One strict HTTP/1.1 request to one copy.
