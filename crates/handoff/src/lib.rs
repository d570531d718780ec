//! handover-handoff
