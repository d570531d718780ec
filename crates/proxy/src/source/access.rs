//! Who we are to a store, and how long we wait for it. Who we are comes from the environment only, so that nothing of it is in a command line, a file or a message.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The user's name, with [`PASSWORD_VARIABLE`]: HTTP Basic authentication (RFC 7617), or etcd's own users.
pub const USER_VARIABLE: &str = "HANDOVER_SOURCE_USER";
/// The user's password.
pub const PASSWORD_VARIABLE: &str = "HANDOVER_SOURCE_PASSWORD";
/// A token instead of user and password: sent as a bearer token (RFC 6750), to etcd as its own.
pub const TOKEN_VARIABLE: &str = "HANDOVER_SOURCE_TOKEN";
/// A file with the authorities (PEM) that the store's certificate is checked by, instead of the system's.
pub const CA_VARIABLE: &str = "HANDOVER_SOURCE_CA";
/// A file with our own certificate (PEM), with [`KEY_VARIABLE`], for stores that want one.
pub const CERTIFICATE_VARIABLE: &str = "HANDOVER_SOURCE_CERTIFICATE";
/// The file with its key.
pub const KEY_VARIABLE: &str = "HANDOVER_SOURCE_KEY";

/// Who we are, whom we trust, and how long we wait.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) login: Option<Login>,
    pub(crate) authorities: Option<PathBuf>,
    /// Files with our certificate and its key.
    pub(crate) identity: Option<(PathBuf, PathBuf)>,
    pub(crate) patience: Patience,
}

/// How long a store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Patience {
    /// For a connection, TLS included.
    pub(crate) connect: Duration,
    /// For one answer in all. Two of them are within the time that a prepare may take.
    pub(crate) answer: Duration,
    /// How long one watch is held open, or paused for between two looks; within this time a watch that is over ends.
    pub(crate) watch: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            watch: Duration::from_secs(25),
        }
    }
}

/// What is shown to prove it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Login {
    Password { user: String, password: String },
    Token(String),
}

impl Access {
    /// From these variables; empty ones count as unset.
    pub(crate) fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Self {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let login = match (variable(TOKEN_VARIABLE), variable(USER_VARIABLE)) {
            (Some(token), _) => Some(Login::Token(token)),
            (None, Some(user)) => {
                Some(Login::Password { user, password: variable(PASSWORD_VARIABLE).unwrap_or_default() })
            }
            (None, None) => None,
        };
        let identity = variable(CERTIFICATE_VARIABLE).zip(variable(KEY_VARIABLE));
        Self {
            login,
            authorities: variable(CA_VARIABLE).map(PathBuf::from),
            identity: identity.map(|(certificate, key)| (certificate.into(), key.into())),
            patience: Patience::default(),
        }
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("authorities", &self.authorities)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_before_a_password_and_neither_is_ever_shown() {
        let of = |pairs: &'static [(&str, &str)]| {
            Access::from_environment(|name| {
                pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            })
        };
        assert_eq!(of(&[(USER_VARIABLE, ""), (PASSWORD_VARIABLE, "secret")]), Access::default());
        let both = of(&[(USER_VARIABLE, "me"), (PASSWORD_VARIABLE, "secret"), (TOKEN_VARIABLE, "secret")]);
        assert_eq!(both.login, Some(Login::Token("secret".to_owned())));
        assert!(!format!("{both:?} {:?}", both.login).contains("secret"));
        let one_file = of(&[(CERTIFICATE_VARIABLE, "cert.pem"), (CA_VARIABLE, "ca.pem")]);
        assert_eq!((one_file.identity, one_file.authorities), (None, Some("ca.pem".into())));
    }
}
