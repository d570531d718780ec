//! Names of hosts, users and groups to numbers.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};

/// Looks names up, so that tests need neither DNS nor `/etc/passwd`.
pub trait Resolve {
    /// The addresses of `host`, which is not an IP address, each with `port`, in order of preference; may block.
    ///
    /// # Errors
    /// The system's error. An empty list counts as "no address found".
    fn host(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;

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
}

/// Asks the system: hosts by `getaddrinfo(3)`, users and groups in `/etc/passwd` and `/etc/group`.
///
/// Users that only a directory service knows must be given by number.
#[derive(Debug, Default)]
pub struct SystemResolver {}

impl Resolve for SystemResolver {
    fn host(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }

    fn user(&mut self, name: &str) -> io::Result<Option<u32>> {
        Ok(number_of(&std::fs::read_to_string("/etc/passwd")?, name))
    }

    fn group(&mut self, name: &str) -> io::Result<Option<u32>> {
        Ok(number_of(&std::fs::read_to_string("/etc/group")?, name))
    }
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
