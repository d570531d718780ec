//! Where a server listens: as the program says, unless the environment says otherwise.

use std::path::PathBuf;

use crate::types::{Address, ListenerSpec, Problem};

/// What a variable that moves a listener begins with; the listener's name follows, in capitals and with `_` for
/// what is neither letter nor digit: `HANDOVER_LISTEN_HTTPS=0.0.0.0:443`.
pub const LISTEN_VARIABLE_PREFIX: &str = "HANDOVER_LISTEN_";

/// Connections that may wait to be accepted, unless the kernel's own limit (net.core.somaxconn) is lower.
const BACKLOG: u32 = 4096;

/// Permission bits of a Unix socket: its owner and group may connect.
const SOCKET_MODE: u32 = 0o660;

/// A listener as the program declared it.
#[derive(Debug, Clone)]
pub(crate) struct Declared {
    pub(crate) name: String,
    pub(crate) default: String,
}

impl Declared {
    /// Where it listens, given how to look up the environment.
    pub(crate) fn spec(
        &self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<ListenerSpec, Box<Problem>> {
        let key = self.variable();
        let moved = variable(&key);
        let text = moved.as_deref().unwrap_or(&self.default);
        let address = parse(text).map_err(|why| {
            let place = if moved.is_some() { format!(" (from {key})") } else { String::new() };
            let problem =
                Problem::new(format!("listener {:?} cannot listen on {text:?}{place}: {why}", self.name))
                    .with_help("write 127.0.0.1:8080, [::1]:8080, unix:/path/to.sock or unix:@name");
            Box::new(problem)
        })?;
        Ok(ListenerSpec { name: self.name.clone(), address, backlog: BACKLOG })
    }

    fn variable(&self) -> String {
        let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
        LISTEN_VARIABLE_PREFIX.chars().chain(self.name.chars().map(letter)).collect()
    }
}

/// `127.0.0.1:8080`, `[::1]:8080`, `unix:/run/app.sock`, `unix:@app`.
fn parse(text: &str) -> Result<Address, &'static str> {
    if let Some(name) = text.strip_prefix("unix:@") {
        return if name.is_empty() {
            Err("an abstract socket needs a name")
        } else {
            Ok(Address::Abstract(name.to_owned()))
        };
    }
    if let Some(path) = text.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        return if path.is_absolute() {
            Ok(Address::Unix { path, mode: SOCKET_MODE })
        } else {
            Err("the path of a Unix socket must be absolute")
        };
    }
    text.parse().map(Address::Tcp).map_err(|_| "it is no address with a port")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared(name: &str, default: &str) -> Declared {
        Declared { name: name.to_owned(), default: default.to_owned() }
    }

    #[test]
    fn the_environment_moves_a_listener() {
        let listener = declared("web-tls", "127.0.0.1:1");
        let spec = listener.spec(|key| (key == "HANDOVER_LISTEN_WEB_TLS").then(|| "[::1]:2".to_owned()));
        assert_eq!(spec.unwrap().address, Address::Tcp("[::1]:2".parse().unwrap()));
        assert_eq!(listener.spec(|_| None).unwrap().address, Address::Tcp("127.0.0.1:1".parse().unwrap()));
    }

    #[test]
    fn an_address_that_is_none_is_refused_with_where_it_came_from() {
        for text in
            ["", "8080", ":8080", "localhost:80", "127.0.0.1", "127.0.0.1:65536", "unix:a.sock", "unix:@"]
        {
            assert!(declared("web", text).spec(|_| None).is_err(), "{text:?}");
        }
        let problem = declared("web", "127.0.0.1:1").spec(|_| Some("nonsense".to_owned())).unwrap_err();
        assert!(problem.detail.contains("HANDOVER_LISTEN_WEB"), "{problem}");
    }
}
