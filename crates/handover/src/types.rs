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
    pub use handover_supervisor::protocol::{Pause, ProgramEndpoint, Target, Traffic};
}
