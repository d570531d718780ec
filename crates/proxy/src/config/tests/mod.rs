//! What must hold of the configuration.
//!
//! `broken/` and `odd/` hold configurations, and beside each what is said about it. `UPDATE_GOLDEN=1` writes those
//! answers anew; read the difference before committing it.

mod accepted;
mod arbitrary;
mod changes;
mod documents;
mod pki;
mod programs;
mod refused;
mod tls;
mod upgrade;
mod values;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handover_api::Problem;

use super::{Account, Checked, Config, Files, Moment, Resolve, Standing, Whom};

/// What relative paths are relative to in these tests. Nothing is there: nothing may be read from disk.
const BASE: &str = "/etc/handover";

/// A world without DNS, users and files but these, and certificates in `tls/`.
#[derive(Default)]
struct World {
    files: BTreeMap<PathBuf, &'static [u8]>,
    /// Every file and every host exists.
    generous: bool,
    reads: Vec<PathBuf>,
    /// What stands on the disk, if anybody is to look there; what is not named here does not.
    disk: Option<BTreeMap<PathBuf, Standing>>,
    /// Paths of certificates at which there is now another file of [`pki`].
    certificates: BTreeMap<PathBuf, &'static str>,
}

impl World {
    fn parse(&mut self, text: impl AsRef<[u8]>) -> Result<Checked, Vec<Problem>> {
        self.parse_beside(text, None)
    }

    /// Parses as a reload does while something serves.
    fn parse_beside(
        &mut self,
        text: impl AsRef<[u8]>,
        serving: Option<&Config>,
    ) -> Result<Checked, Vec<Problem>> {
        let mut names = Names { generous: self.generous };
        let moment = Moment { serving, lenient: false, ..Moment::start() };
        super::parse_beside("handover.toml", Path::new(BASE), text.as_ref(), self, &mut names, moment)
    }
}

impl Files for World {
    fn read(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        self.reads.push(path.to_owned());
        match self.files.get(path) {
            Some(bytes) => Ok(Arc::from(*bytes)),
            None if self.generous => Ok(Arc::from(*b"something")),
            None => Err(io::Error::from_raw_os_error(2)),
        }
    }

    fn read_certificate(&mut self, path: &Path) -> io::Result<Arc<[u8]>> {
        match self.certificates.get(path) {
            Some(name) => pki::file(&Path::new(BASE).join("tls").join(name)),
            None => pki::file(path),
        }
        .ok_or_else(|| io::Error::from_raw_os_error(2))
    }

    fn stands(&mut self, path: &Path) -> Option<Standing> {
        let disk = self.disk.as_ref()?;
        Some(disk.get(path).copied().unwrap_or(Standing::Nothing))
    }
}

struct Names {
    generous: bool,
}

impl Resolve for Names {
    fn host(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let v4 = |last| SocketAddr::from(([192, 0, 2, last], port));
        match host {
            "localhost" => Ok(vec![
                SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port)),
                ([127, 0, 0, 1], port).into(),
            ]),
            "twice.example" => Ok(vec![v4(1), v4(2), v4(1)]),
            "empty.example" => Ok(Vec::new()),
            _ if self.generous => Ok(vec![v4(9)]),
            _ => Err(io::Error::other("failed to lookup address information: Name or service not known")),
        }
    }

    fn user(&mut self, name: &str) -> io::Result<Option<u32>> {
        Ok(if self.generous || name == "alice" { Some(1000) } else { None })
    }

    fn account(&mut self, user: Whom<'_>) -> io::Result<Option<Account>> {
        let (name, uid) = match user {
            Whom::Name(name) => (Some(name.to_owned()), self.user(name)?),
            Whom::Number(uid) => (None, Some(uid)),
        };
        let gid = (uid == Some(1000)).then_some(3000);
        let home = gid.map(|_| PathBuf::from("/home/alice"));
        Ok(uid.map(|uid| Account { name, uid, gid, groups: gid.into_iter().collect(), home }))
    }

    fn may_become(&mut self, uid: u32) -> bool {
        uid != 0
    }

    fn search_path(&mut self) -> Option<OsString> {
        Some("/usr/bin:/bin".into())
    }

    fn group(&mut self, name: &str) -> io::Result<Option<u32>> {
        match name {
            "unreadable" => Err(io::Error::from_raw_os_error(13)),
            _ => Ok(if self.generous || name == "ops" { Some(2000) } else { None }),
        }
    }
}

/// Parses a configuration that is right.
fn good(text: &str) -> Checked {
    match World::default().parse(text) {
        Ok(checked) => checked,
        Err(problems) => panic!("{}", said(&problems)),
    }
}

/// Parses a configuration that is wrong.
fn bad(text: &str) -> Vec<Problem> {
    match World::default().parse(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(problems) => problems,
    }
}

/// A listener, so that a test can be about something else.
const LISTENER: &str = "[listeners.web]\naddress = \"127.0.0.1:8080\"\n";

/// A listener and one route with these lines.
fn with_route(lines: &str) -> String {
    format!("{LISTENER}[services.app]\nendpoints = \"127.0.0.1:3000\"\n[[routes]]\n{lines}\n")
}

/// Everything that is said about a file, as people see it.
fn said(problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        text.push_str(&problem.report());
        text.push('\n');
        if let Some(pointer) = &problem.pointer {
            text.push_str(&format!("  = {pointer}\n"));
        }
        text.push('\n');
    }
    text
}

/// Compares with what is kept in a file, or writes it.
fn golden(path: &Path, actual: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} is not what comes out now (UPDATE_GOLDEN=1 writes it anew):\n{actual}",
        path.display()
    );
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
