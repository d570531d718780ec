//! Read → check: pairs of files become [`Certified`]; what did not change is not parsed again.
//!
//! ```text
//!   each pair: read both files ─▶ digest ─▶ served already, or seen before in this set? ─yes─▶ the same object
//!                                                   └─no─▶ parse and check, on several threads if there are many
//!   then, for all: what the time says
//! ```

use std::collections::HashMap;
use std::num::NonZero;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;

use crate::certificate::{Certified, Pair};
use crate::check::{self, Part, Wrong};
use crate::files::Files;
use crate::problem::{CertificateError, CertificateWarning, Concern, Reason};
use crate::provider::provider;

/// The most threads that parse.
const MAX_THREADS: usize = 8;
/// Fewer certificates than this for each thread are not worth starting it.
const WORTH_A_THREAD: usize = 16;
/// Permission bits with which others than owner and group can read a key or replace it.
const OTHERS: u32 = 0o006;

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

impl Moment<'_> {
    /// The time in seconds since 1970.
    pub(crate) fn seconds(&self) -> i64 {
        match self.now.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_secs()).map_or(i64::MIN, |seconds| -seconds),
        }
    }
}

/// What was read.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order of the pairs.
    pub certificates: Vec<Arc<Certified>>,
    /// What is odd about them.
    pub warnings: Vec<CertificateWarning>,
}

/// The bytes of a pair, not yet looked at.
struct Unparsed<'p> {
    pair: &'p Pair,
    digest: [u8; 32],
    certificate: Arc<[u8]>,
    key: Arc<[u8]>,
}

/// What became of a pair.
enum Found<'a> {
    /// It serves already.
    Serving(&'a Arc<Certified>),
    /// It is the one at this position among those to be parsed.
    New(usize),
    /// It cannot be read.
    Wrong(Wrong),
}

/// Reads and checks pairs.
///
/// # Errors
/// Everything that is wrong with any of them.
pub fn load(
    pairs: &[Pair],
    files: &mut dyn Files,
    moment: &Moment<'_>,
) -> Result<Loaded, Vec<CertificateError>> {
    let (found, unparsed) = read(pairs, files, &moment.serving);
    let parsed = parse(&unparsed, &provider());
    let now = moment.seconds();
    let mut loaded = Loaded { certificates: Vec::with_capacity(pairs.len()), warnings: Vec::new() };
    let mut errors = Vec::new();
    for (at, (pair, found)) in pairs.iter().zip(found).enumerate() {
        let mut error = |part: Part, reason: Reason| {
            errors.push(CertificateError { pair: at, file: pair.file(part).to_owned(), reason });
        };
        let (certified, serves) = match found {
            Found::Serving(certified) => (Arc::clone(certified), true),
            Found::New(index) => match parsed.get(index).and_then(OnceLock::get) {
                Some(Ok(certified)) => (Arc::clone(certified), false),
                Some(Err(wrong)) => {
                    wrong.iter().for_each(|(part, reason)| error(*part, reason.again(pair)));
                    continue;
                }
                None => {
                    error(
                        Part::Certificate,
                        Reason::unreadable(&std::io::Error::other("it was not looked at")),
                    );
                    continue;
                }
            },
            Found::Wrong(wrong) => {
                wrong.into_iter().for_each(|(part, reason)| error(part, reason));
                continue;
            }
        };
        let in_time = check::at(&certified, now);
        let mut concerns: Vec<Concern> = certified.concerns.clone();
        concerns.extend(in_time.concerns);
        match in_time.invalid {
            Some((reason, _)) if !(serves || moment.lenient) => error(Part::Certificate, reason),
            Some((_, concern)) => concerns.push(concern),
            None => {}
        }
        let mut warn = |file: &Path, concern| {
            loaded.warnings.push(CertificateWarning { pair: at, file: file.to_owned(), concern });
        };
        concerns.into_iter().for_each(|concern| warn(&pair.certificate, concern));
        if let Some(mode) = files.mode(&pair.key).filter(|mode| mode & OTHERS != 0) {
            warn(&pair.key, Concern::Exposed { mode });
        }
        loaded.certificates.push(certified);
    }
    if errors.is_empty() { Ok(loaded) } else { Err(errors) }
}

/// Reads all files and finds those that are known.
fn read<'p, 'a>(
    pairs: &'p [Pair],
    files: &mut dyn Files,
    serving: &[&'a Arc<Certified>],
) -> (Vec<Found<'a>>, Vec<Unparsed<'p>>) {
    type ByDigest<T> = HashMap<[u8; 32], T, foldhash::fast::RandomState>;
    let known: ByDigest<&'a Arc<Certified>> =
        serving.iter().map(|certified| (*certified.digest(), *certified)).collect();
    let mut new: ByDigest<usize> = HashMap::default();
    let mut unparsed: Vec<Unparsed<'p>> = Vec::new();
    let mut found = Vec::with_capacity(pairs.len());
    for pair in pairs {
        let certificate = files.read(&pair.certificate);
        let key = if pair.key == pair.certificate {
            // One that cannot be read is reported once.
            certificate.as_ref().map(Arc::clone).map_err(|_| None)
        } else {
            files.read(&pair.key).map_err(Some)
        };
        found.push(match (certificate, key) {
            (Ok(certificate), Ok(key)) => {
                let digest = digest(&certificate, &key);
                match (known.get(&digest), new.get(&digest)) {
                    (Some(certified), _) => Found::Serving(certified),
                    (None, Some(at)) => Found::New(*at),
                    (None, None) => {
                        new.insert(digest, unparsed.len());
                        unparsed.push(Unparsed { pair, digest, certificate, key });
                        Found::New(unparsed.len() - 1)
                    }
                }
            }
            (certificate, key) => {
                let certificate =
                    certificate.err().map(|error| (Part::Certificate, Reason::unreadable(&error)));
                let key = key.err().flatten().map(|error| (Part::Key, Reason::unreadable(&error)));
                Found::Wrong(certificate.into_iter().chain(key).collect())
            }
        });
    }
    (found, unparsed)
}

/// Of the bytes of both files, and where the one ends.
fn digest(certificate: &[u8], key: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(certificate.len() as u64).to_le_bytes());
    hasher.update(certificate);
    hasher.update(key);
    *hasher.finalize().as_bytes()
}

type Parsed = OnceLock<Result<Arc<Certified>, Wrong>>;

/// Parses and checks, in the order given.
fn parse(unparsed: &[Unparsed<'_>], provider: &CryptoProvider) -> Vec<Parsed> {
    let parsed: Vec<Parsed> = unparsed.iter().map(|_| OnceLock::new()).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((unparsed, parsed)) = {
            let at = next.fetch_add(1, Ordering::Relaxed);
            unparsed.get(at).zip(parsed.get(at))
        } {
            let Unparsed { pair, digest, certificate, key } = unparsed;
            // Nobody else has this number, so nothing is there yet.
            let _ = parsed.set(check::check(pair, *digest, certificate, key, provider).map(Arc::new));
        }
    };
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(MAX_THREADS).min(unparsed.len() / WORTH_A_THREAD);
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without another thread it takes longer, that is all.
            if std::thread::Builder::new().name("certificates".to_owned()).spawn_scoped(scope, work).is_err()
            {
                break;
            }
        }
        work();
    });
    parsed
}

impl Pair {
    pub(crate) fn file(&self, part: Part) -> &Path {
        match part {
            Part::Certificate => &self.certificate,
            Part::Key => &self.key,
        }
    }
}
