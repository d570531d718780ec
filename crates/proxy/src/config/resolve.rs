//! Names of hosts, users and groups to numbers.

use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The most names that are looked up at the same time.
const MAX_LOOKUPS: usize = 16;

/// What a host name leads to.
pub type Addresses = io::Result<Vec<SocketAddr>>;

/// Looks names up, so that tests need neither DNS nor `/etc/passwd`.
pub trait Resolve {
    /// The addresses of a host, which is not an IP address, each with `port`, in order of preference; may block.
    ///
    /// # Errors
    /// The system's error. An empty list counts as "no address found".
    fn host(&mut self, host: &str, port: u16) -> Addresses;

    /// The same for many, in their order. Worth doing at the same time: a name server that does not answer costs
    /// seconds for each name.
    fn hosts(&mut self, names: &[(String, u16)]) -> Vec<Addresses> {
        names.iter().map(|(host, port)| self.host(host, *port)).collect()
    }

    /// The number of the user of that name; `None` if there is none.
    ///
    /// # Errors
    /// When the list of users cannot be read.
    fn user(&mut self, name: &str) -> io::Result<Option<u32>>;

    /// The number of the group of that name; `None` if there is none.
    ///
    /// # Errors
    /// When the list of groups cannot be read.
    fn group(&mut self, name: &str) -> io::Result<Option<u32>>;

    /// What is known of a user, to run a program as that one; `None` if there is none of that name.
    ///
    /// # Errors
    /// When the list of users or groups cannot be read.
    fn account(&mut self, user: Whom<'_>) -> io::Result<Option<Account>> {
        let uid = match user {
            Whom::Name(name) => self.user(name)?,
            Whom::Number(uid) => Some(uid),
        };
        Ok(uid.map(|uid| Account { uid, ..Account::default() }))
    }

    /// Whether this process may run others as this user.
    fn may_become(&mut self, uid: u32) -> bool {
        let _ = uid;
        true
    }

    /// Where commands without a slash are looked for (`PATH`); `None` where nobody is to look.
    fn search_path(&mut self) -> Option<OsString> {
        None
    }
}

/// A user, as somebody has named it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whom<'a> {
    /// By name.
    Name(&'a str),
    /// By number; it need not be known.
    Number(u32),
}

/// What is known of a user (passwd(5), group(5)).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its number.
    pub uid: u32,
    /// Its first group, if it is known.
    pub gid: Option<u32>,
    /// All groups of which it is a member, the first one too.
    pub groups: Vec<u32>,
    /// Its home directory.
    pub home: Option<PathBuf>,
}

/// Asks the system: hosts by `getaddrinfo(3)`, users and groups in `/etc/passwd` and `/etc/group`.
///
/// Users that only a directory service knows must be given by number.
#[derive(Debug, Default)]
pub struct SystemResolver {}

impl Resolve for SystemResolver {
    fn host(&mut self, host: &str, port: u16) -> Addresses {
        look_up(host, port)
    }

    fn hosts(&mut self, names: &[(String, u16)]) -> Vec<Addresses> {
        let next = AtomicUsize::new(0);
        let found: Vec<OnceLock<Addresses>> = names.iter().map(|_| OnceLock::new()).collect();
        let work = || {
            while let Some((at, (host, port))) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                names.get(at).map(|name| (at, name))
            } {
                if let Some(found) = found.get(at) {
                    // Nobody else has this number, so nothing is there yet.
                    let _ = found.set(look_up(host, *port));
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..names.len().min(MAX_LOOKUPS) {
                // Without another thread it takes longer, that is all.
                if std::thread::Builder::new().name("resolve".to_owned()).spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        let not_found = || Err(io::Error::other("it was not looked up"));
        found.into_iter().map(|found| found.into_inner().unwrap_or_else(not_found)).collect()
    }

    fn user(&mut self, name: &str) -> io::Result<Option<u32>> {
        Ok(number_of(&std::fs::read_to_string("/etc/passwd")?, name))
    }

    fn group(&mut self, name: &str) -> io::Result<Option<u32>> {
        Ok(number_of(&std::fs::read_to_string("/etc/group")?, name))
    }

    fn account(&mut self, user: Whom<'_>) -> io::Result<Option<Account>> {
        let users = std::fs::read_to_string("/etc/passwd")?;
        let groups = std::fs::read_to_string("/etc/group")?;
        Ok(account_of(&users, &groups, user))
    }

    fn may_become(&mut self, uid: u32) -> bool {
        let own = rustix::process::geteuid();
        own.is_root() || own.as_raw() == uid
    }

    fn search_path(&mut self) -> Option<OsString> {
        Some(std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()))
    }
}

/// Where commands are looked for without the variable (execvp(3)).
const DEFAULT_PATH: &str = "/bin:/usr/bin";

fn look_up(host: &str, port: u16) -> Addresses {
    Ok((host, port).to_socket_addrs()?.collect())
}

/// The third field of the line whose first is `name` (`passwd(5)`, `group(5)`).
fn number_of(list: &str, name: &str) -> Option<u32> {
    list.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        fields.nth(1)?.parse().ok()
    })
}

/// A user's line, and the groups that have it among their members.
fn account_of(users: &str, groups: &str, user: Whom<'_>) -> Option<Account> {
    let line = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else { return None };
        let (uid, gid) = (uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
        let is_wanted = match user {
            Whom::Name(wanted) => wanted == name,
            Whom::Number(wanted) => wanted == uid,
        };
        is_wanted.then(|| (name.to_owned(), uid, gid, PathBuf::from(home)))
    });
    let Some((name, uid, gid, home)) = line else {
        return match user {
            Whom::Name(_) => None,
            Whom::Number(uid) => Some(Account { uid, ..Account::default() }),
        };
    };
    let of_group = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields[..] else { return None };
        members.split(',').any(|member| member == name).then(|| gid.parse::<u32>().ok())?
    };
    let mut all: Vec<u32> = std::iter::once(gid).chain(groups.lines().filter_map(of_group)).collect();
    all.sort_unstable();
    all.dedup();
    Some(Account { name: Some(name), uid, gid: Some(gid), groups: all, home: Some(home) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_its_own_group_and_those_that_name_it() {
        let users = "root:x:0:0:root:/root:/bin/sh\nodd:x\nweb:x:33:34::/var/www:/bin/false\n";
        let groups = "root:x:0:\nssl:x:7:mail,web\nweb:x:34:web\nwebs:x:9:webs\nodd\n";
        let web = Account {
            name: Some("web".to_owned()),
            uid: 33,
            gid: Some(34),
            groups: vec![7, 34],
            home: Some("/var/www".into()),
        };
        assert_eq!(account_of(users, groups, Whom::Name("web")), Some(web.clone()));
        assert_eq!(account_of(users, groups, Whom::Number(33)), Some(web));
        assert_eq!(account_of(users, groups, Whom::Name("odd")), None);
        let unknown = Account { uid: 4711, ..Account::default() };
        assert_eq!(account_of(users, groups, Whom::Number(4711)), Some(unknown));
    }

    #[test]
    fn the_number_of_a_user_is_the_third_field_of_its_line() {
        let list = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/bin/sh\nbroken\nodd:x:y:z\n";
        assert_eq!(number_of(list, "root"), Some(0));
        assert_eq!(number_of(list, "www-data"), Some(33));
        assert_eq!(number_of(list, "www"), None);
        assert_eq!(number_of(list, "broken"), None);
        assert_eq!(number_of(list, "odd"), None);
        assert_eq!(number_of(list, ""), None);
    }

    #[test]
    fn many_names_are_answered_in_their_order() {
        let names: Vec<(String, u16)> =
            (1..=40).map(|last| (format!("127.0.0.{last}"), 1000 + u16::from(last == 40))).collect();
        let found = SystemResolver::default().hosts(&names);
        assert_eq!(found.len(), names.len());
        for ((host, port), found) in names.iter().zip(found) {
            assert_eq!(found.unwrap(), [format!("{host}:{port}").parse().unwrap()]);
        }
        assert!(SystemResolver::default().hosts(&[]).is_empty());
    }
}
