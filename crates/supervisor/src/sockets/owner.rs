//! Who listens on an address already: so that "address in use" can name the program.
//!
//! The kernel lists listening sockets with their inode numbers in `/proc/net/tcp` and `/proc/net/tcp6`
//! (proc(5)); which process holds an inode shows in the links below `/proc/<pid>/fd`, as far as we may look.
//!
//! In those tables the listening sockets come first. Reading ends with the last of them: behind a busy server follow
//! tens of thousands of connections and their remains, which take seconds to read.

use std::fmt;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// State `TCP_LISTEN` in the kernel's table.
const LISTEN: &str = "0A";
/// Processes looked at before the search for a name is given up: it must not hold up an answer.
const MAX_PROCESSES: usize = 20_000;

/// A process that holds a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Its process ID.
    pub(crate) pid: u32,
    /// Its command name, as in `/proc/<pid>/comm`.
    pub(crate) command: String,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// A socket that listens where we want to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Occupant {
    /// Its address.
    pub(crate) address: SocketAddr,
    /// Who holds it, where that can be found out.
    pub(crate) owner: Option<Owner>,
}

/// The first listening TCP socket that keeps `wanted` from being bound, if the kernel shows one.
pub(crate) fn tcp_occupant(wanted: SocketAddr) -> Option<Occupant> {
    let table = if wanted.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    find(table, |address| address.port() == wanted.port() && overlap(address.ip(), wanted.ip()))
}

/// A socket on all IPv6 addresses that may keep an IPv4 port from being bound: it does if it takes IPv4 connections
/// too, which the kernel's table does not say.
pub(crate) fn dual_stack_occupant(wanted: SocketAddr) -> Option<Occupant> {
    let is_everywhere =
        |address: SocketAddr| address.ip().is_unspecified() && address.port() == wanted.port();
    find("/proc/net/tcp6", |address| wanted.is_ipv4() && is_everywhere(address))
}

fn find(table: &str, excludes: impl Fn(SocketAddr) -> bool) -> Option<Occupant> {
    let lines = BufReader::new(fs::File::open(table).ok()?).lines().skip(1).map_while(Result::ok);
    let mut listening = lines.take_while(|line| state(line) == Some(LISTEN));
    let (address, inode) =
        listening.find_map(|line| address_and_inode(&line).filter(|(at, _)| excludes(*at)))?;
    Some(Occupant { address, owner: holder_of(inode) })
}

/// Do two addresses of one family exclude each other on the same port?
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    one == other || one.is_unspecified() || other.is_unspecified()
}

/// The state of the socket of a line of the kernel's table.
fn state(line: &str) -> Option<&str> {
    line.split_ascii_whitespace().nth(3)
}

/// The address and the inode of the socket of a line of the kernel's table.
fn address_and_inode(line: &str) -> Option<(SocketAddr, u64)> {
    let mut fields = line.split_ascii_whitespace();
    let local = fields.nth(1)?;
    let inode = fields.nth(7)?.parse().ok()?;
    Some((parse_address(local)?, inode))
}

/// `0100007F:1F90`: groups of four bytes in the machine's order, then the port.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match ip.len() {
        8 => Some(SocketAddr::from((Ipv4Addr::from(word(0)?), port))),
        32 => {
            let mut bytes = [0_u8; 16];
            for (part, at) in bytes.chunks_exact_mut(4).zip((0..32).step_by(8)) {
                part.copy_from_slice(&word(at)?);
            }
            Some(SocketAddr::from((Ipv6Addr::from(bytes), port)))
        }
        _ => None,
    }
}

fn holder_of(inode: u64) -> Option<Owner> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .take(MAX_PROCESSES)
        .find(|pid| holds(*pid, Path::new(&wanted)))
        .map(|pid| Owner { pid, command: command_of(pid) })
}

fn holds(pid: u32, wanted: &Path) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors.flatten().any(|entry| fs::read_link(entry.path()).is_ok_and(|link| link == wanted))
}

fn command_of(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "a process".to_owned(), |name| name.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listening_socket_is_found_with_its_process() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let address = listener.local_addr().unwrap();
            let occupant = tcp_occupant(address).unwrap();
            assert_eq!(occupant.address, address);
            assert_eq!(occupant.owner.unwrap().pid, std::process::id());
            let any = match address {
                SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())),
                SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, address.port())),
            };
            assert_eq!(tcp_occupant(any).unwrap().address, address);
        }
    }

    #[test]
    fn a_socket_for_both_families_is_found_for_an_ipv4_port() {
        // Rust's listeners on [::] take IPv4 too, as Linux does unless told otherwise.
        let Ok(listener) = TcpListener::bind("[::]:0") else { return };
        let port = listener.local_addr().unwrap().port();
        let wanted = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        assert_eq!(dual_stack_occupant(wanted).unwrap().owner.unwrap().pid, std::process::id());
    }

    #[test]
    fn a_free_port_has_no_occupant() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert_eq!(tcp_occupant(address), None);
    }

    #[test]
    fn a_line_of_another_shape_is_passed_over() {
        for line in ["", "x", "0: 0100007F:1F90 0:0 0A 0 0 0 0 0", "0: Z:1 0:0 0A 0 0 0 0 0 7"] {
            assert_eq!(address_and_inode(line), None, "{line}");
        }
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 7 1";
        assert_eq!(state(line), Some(LISTEN));
        assert_eq!(address_and_inode(line), Some(("127.0.0.1:8080".parse().unwrap(), 7)));
    }
}
