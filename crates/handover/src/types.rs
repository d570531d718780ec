//! The words that library, supervisor and control API share, under this crate's name.

pub use handover_api::{Change, ChangeKind, Losses, Problem, What};
pub use handover_supervisor::protocol::{
    Address, Figures, Grant, GuardFigures, GuardLimits, ListenerSpec, LogSettings, LogTarget, Roles,
    Settings, UpgradeRules,
};
