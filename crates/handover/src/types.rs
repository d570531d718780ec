//! The words that library, supervisor and control API share, under this crate's name.

pub use handover_api::{Change, ChangeKind, Losses, Problem, What};
pub use handover_supervisor::protocol::{
    Address, Figures, Grant, GuardFigures, GuardLimits, ListenerSpec, LogSettings, LogTarget, Roles,
    Settings, UpgradeRules,
};

/// What the supervisor must know of a program to run it.
pub mod program {
    pub use handover_supervisor::protocol::{
        Accept, CommandSpec, Names, Pass, Private, ProgramSocket, ProgramSpec, Ready, Reload, ResourceLimits,
        Restart, RestartPolicy, Slot, Stop, Swap, User,
    };
}

/// Where requests for programs go, what is taken out, and what is held.
pub mod traffic {
    pub use handover_supervisor::protocol::{Pause, ProgramEndpoint, Target, Traffic, Wake};

    /// How a wait for quiet has ended.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct Quiet {
        /// What is still in flight: requests, tunnels and connections.
        pub left: u64,
        /// What is held now.
        pub held: u64,
        /// Of a program: a number that is another one after each request or tunnel that was passed to it; `None` if that is not known.
        pub begun: Option<u64>,
    }

    impl Quiet {
        /// Nobody knows, so it does not count as quiet.
        pub(crate) const UNKNOWN: Self = Self { left: 1, held: 0, begun: None };
    }
}
