//! What a peer may do: decided from what the kernel says about it, and from nothing that it says itself.
//!
//! Root and the user that runs the server are `admin`. Everybody else has the highest role that the
//! configuration grants to its user or to one of its groups; without one, nothing.

use std::fmt;

use handover_api::Actor;
use handover_handoff::peer::Peer;

use crate::protocol::{Grant, Settings};

/// What a peer may do. A higher role includes the lower ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing.
    None,
    /// Look: status, history, operations, generations, programs and what they write, events, metrics.
    Read,
    /// See the configuration, reload, confirm, cancel, roll back, validate, drain, resume, run actions; the same of programs, and
    /// start, stop, restart, deploy and pause them.
    Operate,
    /// Upgrade and stop the server, deploy any directory, and take or restore a backup, which has its private keys.
    Admin,
}

impl Role {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The process at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    peer: Peer,
    groups: Vec<u32>,
    command: Option<String>,
}

impl Visitor {
    pub(super) fn new(peer: Peer) -> Self {
        Self { groups: peer.groups(), command: peer.command(), peer }
    }

    /// Somebody who is not there.
    #[cfg(test)]
    pub(super) fn made_up(peer: Peer, groups: &[u32]) -> Self {
        Self { peer, groups: groups.to_vec(), command: None }
    }

    pub(super) fn uid(&self) -> u32 {
        self.peer.uid
    }

    pub(super) fn actor(&self) -> Actor {
        let pid = Some(self.peer.pid).filter(|pid| *pid != 0);
        Actor::peer(self.peer.uid, self.peer.gid, pid, self.command.clone())
    }

    /// Its role under these settings, in a server that runs as `server_uid`.
    pub(super) fn role(&self, settings: &Settings, server_uid: u32) -> Role {
        let has = |grant: &Grant| {
            grant.users.contains(&self.peer.uid)
                || self.groups.iter().any(|group| grant.groups.contains(group))
        };
        let roles = &settings.roles;
        if self.peer.uid == 0 || self.peer.uid == server_uid || has(&roles.admin) {
            Role::Admin
        } else if has(&roles.operate) {
            Role::Operate
        } else if has(&roles.read) {
            Role::Read
        } else {
            Role::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(uid: u32, groups: &[u32]) -> Visitor {
        let peer = Peer { pid: 1, uid, gid: groups[0] };
        Visitor { peer, groups: groups.to_vec(), command: None }
    }

    fn settings() -> Settings {
        let mut settings = Settings::default();
        settings.roles.admin.users = vec![10];
        settings.roles.operate.groups = vec![20];
        settings.roles.read = Grant { users: vec![30], groups: vec![31] };
        settings
    }

    #[test]
    fn root_and_the_servers_own_user_may_do_everything() {
        assert_eq!(visitor(0, &[0]).role(&Settings::default(), 500), Role::Admin);
        assert_eq!(visitor(500, &[500]).role(&Settings::default(), 500), Role::Admin);
        assert_eq!(visitor(501, &[500]).role(&Settings::default(), 500), Role::None);
    }

    #[test]
    fn others_have_the_highest_role_that_their_user_or_any_group_is_granted() {
        let role = |uid, groups: &[u32]| visitor(uid, groups).role(&settings(), 500);
        assert_eq!(role(10, &[1]), Role::Admin);
        assert_eq!(role(11, &[1, 20]), Role::Operate);
        assert_eq!(role(30, &[1, 31, 20]), Role::Operate);
        assert_eq!(role(30, &[1]), Role::Read);
        assert_eq!(role(12, &[31]), Role::Read);
        assert_eq!(role(20, &[30]), Role::None);
    }

    #[test]
    fn roles_are_ordered() {
        assert!(Role::None < Role::Read && Role::Read < Role::Operate && Role::Operate < Role::Admin);
    }
}
