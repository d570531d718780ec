//! Ending what a test runs beside itself, also when an assertion fails.

use std::sync::atomic::{AtomicBool, Ordering};

/// Sets a flag when it goes out of scope. In a [`std::thread::scope`] it tells the threads to end, so that a failed
/// assertion is reported instead of waited for.
#[derive(Debug)]
pub struct EndOnDrop<'a>(pub &'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
