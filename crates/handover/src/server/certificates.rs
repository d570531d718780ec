//! Certificates that take part in a server's reloads.
//!
//! ```text
//!   reload, reload --certs ─▶ prepare (read, check) ─┬─ all others ready too ─▶ commit: the next handshake
//!                                                    └─ anything wrong ───────▶ what serves goes on
//! ```

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use handover_api::Certificate;
use handover_tls::{CertificateError, CertificateStore, CertificateWarning, Files, Pair, Prepared};

use super::reloadable::{LoadError, Ready, Value};
use crate::prepare::Prepare;
use crate::types::{Change, Problem};

/// What certificates are called among what cannot be loaded.
const NAME: &str = "certificates";

/// Certificates that a server has declared. Clones are handles to the same.
#[derive(Clone)]
pub struct Certificates {
    store: Arc<CertificateStore>,
    pairs: Arc<[Pair]>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("pairs", &self.pairs).finish_non_exhaustive()
    }
}

impl Certificates {
    pub(crate) fn new(store: Arc<CertificateStore>, pairs: Vec<Pair>) -> Self {
        Self { store, pairs: pairs.into() }
    }

    /// What serves.
    #[must_use]
    pub fn serving(&self) -> Vec<Certificate> {
        self.store.certificates()
    }

    pub(crate) fn load_anew(&self, cx: &mut Prepare) -> Result<Prepared, Vec<CertificateError>> {
        let (now, again) = (SystemTime::now(), cx.is_served_again());
        let mut files = Through(cx);
        if again {
            self.store.prepare_again(&self.pairs, &mut files, now)
        } else {
            self.store.prepare(&self.pairs, &mut files, now)
        }
    }
}

/// Reads through a prepare, so that the bytes belong to the generation.
struct Through<'a>(&'a mut Prepare);

impl Files for Through<'_> {
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.0.read_certificate(path)
    }

    fn mode(&mut self, path: &Path) -> Option<u32> {
        if self.0.is_served_again() {
            return None;
        }
        let metadata = std::fs::metadata(self.0.base().join(path)).ok()?;
        Some(metadata.mode() & 0o7777)
    }
}

impl Value for Certificates {
    fn name(&self) -> &str {
        NAME
    }

    fn is_certificates(&self) -> bool {
        true
    }

    fn prepare(&self, cx: &mut Prepare) -> Result<Box<dyn Ready>, Vec<Problem>> {
        match self.load_anew(cx) {
            Ok(prepared) => Ok(Box::new(prepared)),
            Err(errors) => Err(errors.iter().map(problem).collect()),
        }
    }
}

impl Ready for Prepared {
    fn changes(&self, _first: bool) -> Vec<Change> {
        Prepared::changes(self).to_vec()
    }

    fn warnings(&self) -> Vec<Problem> {
        let problem = |warning: &CertificateWarning| {
            let problem =
                Problem::new(warning.concern.to_string()).in_file(warning.file.display().to_string());
            helped(problem, warning.help())
        };
        Prepared::warnings(self).iter().map(problem).collect()
    }

    fn commit(self: Box<Self>) {
        Prepared::commit(*self);
    }
}

fn problem(error: &CertificateError) -> Problem {
    let problem = Problem::new(error.reason.to_string()).in_file(error.file.display().to_string());
    helped(problem, error.help())
}

fn helped(problem: Problem, help: Option<String>) -> Problem {
    match help {
        Some(help) => problem.with_help(help),
        None => problem,
    }
}

/// All errors as one, for an action's answer.
pub(crate) fn as_one(errors: &[CertificateError]) -> LoadError {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("; ").into()
}
