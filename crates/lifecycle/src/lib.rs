//! handover-lifecycle
