//! Both sides against each other: without processes by the thousand, and with real ones.

mod limits;
mod simulation;
