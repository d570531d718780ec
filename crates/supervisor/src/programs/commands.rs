//! A command that ends by itself: run with a deadline, its output kept.
