//! The kernel's tables of sockets (`/proc/net/tcp`, `tcp6` and `unix`, proc(5)), a line at a time.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Lines that are read of one table: more sockets than this are counted as so many.
const MAX_LINES: usize = 1_000_000;
/// State `TCP_ESTABLISHED` in the tables of TCP.
const ESTABLISHED: &str = "01";
/// State `TCP_CLOSE_WAIT`: the peer has said all; it can still be answered.
const CLOSE_WAIT: &str = "08";
/// State `TCP_TIME_WAIT`: it was closed from this end, and is remembered for [`REMEMBERED`].
const TIME_WAIT: &str = "06";
/// `TCP_TIMEWAIT_LEN` (net/tcp.h).
const REMEMBERED: Duration = Duration::from_secs(60);
/// Ticks of the tables' timers in a second (`USER_HZ`).
const TICKS: u32 = 100;
/// State `SS_CONNECTED` in the table of Unix sockets (linux/net.h).
const CONNECTED: &str = "03";
/// State `SS_CONNECTING`: of the accepting side, a connection that nobody has accepted yet.
const CONNECTING: &str = "02";

/// A TCP connection that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tcp {
    pub(super) local: SocketAddr,
    pub(super) peer: SocketAddr,
    /// 0 as long as nobody has accepted it.
    pub(super) inode: u64,
}

/// The server's end of a connection over a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unix {
    /// The path that was bound; of an abstract name, `@` and the name.
    pub(super) path: String,
    /// 0 as long as nobody has accepted it.
    pub(super) inode: u64,
}

/// All TCP connections.
pub(super) fn tcp() -> io::Result<Vec<Tcp>> {
    let mut all = read("/proc/net/tcp", tcp_line)?;
    match read("/proc/net/tcp6", tcp_line) {
        Ok(more) => all.extend(more),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(all)
}

/// All TCP connections that are over and still remembered, with the time since then.
pub(super) fn closed() -> io::Result<Vec<(Tcp, Duration)>> {
    let mut all = read("/proc/net/tcp", closed_line)?;
    all.extend(read("/proc/net/tcp6", closed_line).unwrap_or_default());
    Ok(all)
}

/// All connections that were made to a Unix socket with a name.
pub(super) fn unix() -> io::Result<Vec<Unix>> {
    read("/proc/net/unix", unix_line)
}

fn read<T>(table: &str, parse: fn(&str) -> Option<T>) -> io::Result<Vec<T>> {
    let mut found = Vec::new();
    // Names of Unix sockets may be any bytes.
    for line in BufReader::new(File::open(table)?).split(b'\n').skip(1).take(MAX_LINES) {
        found.extend(parse(&String::from_utf8_lossy(&line?)));
    }
    Ok(found)
}

/// `sl local_address rem_address st tx_queue:rx_queue tr:tm->when retrnsmt uid timeout inode …`
fn tcp_line(line: &str) -> Option<Tcp> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != ESTABLISHED && state != CLOSE_WAIT {
        return None;
    }
    Some(Tcp { local: address(local)?, peer: address(peer)?, inode: fields.nth(5)?.parse().ok()? })
}

/// The same, of a connection that is over. Its timer says how much longer it is remembered: `03:00001770`.
fn closed_line(line: &str) -> Option<(Tcp, Duration)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, peer, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != TIME_WAIT {
        return None;
    }
    let left = u32::from_str_radix(fields.nth(1)?.split_once(':')?.1, 16).ok()?;
    let since = REMEMBERED.saturating_sub(Duration::from_secs(1) * left / TICKS);
    Some((Tcp { local: address(local)?, peer: address(peer)?, inode: 0 }, since))
}

/// `0100007F:1F90`: the address as 32-bit words in the machine's order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = std::str::from_utf8(word).ok()?;
        (word.len() == 8).then(|| u32::from_str_radix(word, 16).ok()).flatten().map(u32::to_ne_bytes)
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let address = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)?),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// `Num: RefCount Protocol Flags Type St Inode Path`
fn unix_line(line: &str) -> Option<Unix> {
    let mut fields = line.splitn(7, ' ').skip(5);
    let (state, rest) = (fields.next()?, fields.next()?);
    if state != CONNECTED && state != CONNECTING {
        return None;
    }
    // The inode is padded on the left; a path may have spaces.
    let (inode, path) = rest.trim_start().split_once(' ')?;
    Some(Unix { path: path.to_owned(), inode: inode.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_over_ipv4_is_read_with_its_addresses_and_its_inode() {
        let line = "   1: 0100007F:1F90 0200007F:D431 01 00000000:00000000 00:00000000 00000000  1000        0 53090700 1 0000000000000000 20 4 30 10 -1";
        let local = "127.0.0.1:8080".parse().unwrap();
        let peer = "127.0.0.2:54321".parse().unwrap();
        assert_eq!(tcp_line(line), Some(Tcp { local, peer, inode: 53_090_700 }));
    }

    #[test]
    fn a_connection_over_ipv6_is_read_with_its_addresses() {
        let line = "  0: 00000000000000000000000001000000:1F90 00000000000000000000000001000000:0001 08 0:0 00:0 0 0 0 7 1";
        let connection = tcp_line(line).unwrap();
        assert_eq!(connection.local, "[::1]:8080".parse().unwrap());
        assert_eq!(connection.inode, 7);
    }

    #[test]
    fn what_listens_or_is_closed_is_no_connection() {
        for state in ["0A", "06", "07", "04"] {
            let line = format!("0: 0100007F:1F90 00000000:0000 {state} 0:0 00:0 0 0 0 7 1");
            assert_eq!(tcp_line(&line), None, "{state}");
        }
        assert_eq!(tcp_line("rubbish"), None);
        assert_eq!(tcp_line("0: 0100007F 0200007F:D431 01 0:0 00:0 0 0 0 7 1"), None);
    }

    #[test]
    fn of_a_connection_that_is_over_it_is_known_since_when() {
        let line = "0: 0100007F:1F90 0200007F:D431 06 00000000:00000000 03:00001388 00000000 0 0 0 3 0";
        let (connection, since) = closed_line(line).unwrap();
        assert_eq!(connection.local, "127.0.0.1:8080".parse().unwrap());
        assert_eq!(since, Duration::from_secs(10));
        assert_eq!(closed_line(&line.replace(" 06 ", " 01 ")), None);
    }

    #[test]
    fn a_unix_connection_is_read_whatever_its_path_is() {
        let line = "0000000000000000: 00000003 00000000 00000000 0001 03 53091 /run/a b.sock";
        assert_eq!(unix_line(line), Some(Unix { path: "/run/a b.sock".to_owned(), inode: 53_091 }));
        let line = "0000000000000000: 00000003 00000000 00000000 0001 03   91 @name";
        assert_eq!(unix_line(line), Some(Unix { path: "@name".to_owned(), inode: 91 }));
        let queued = "0000000000000000: 00000002 00000000 00000000 0001 02     0 /run/app.sock";
        assert_eq!(unix_line(queued), Some(Unix { path: "/run/app.sock".to_owned(), inode: 0 }));
        let listens = "0000000000000000: 00000002 00000000 00010000 0001 01 530 /run/app.sock";
        assert_eq!(unix_line(listens), None);
        assert_eq!(unix_line("0000000000000000: 00000003 00000000 00000000 0001 03 53091"), None);
    }
}
