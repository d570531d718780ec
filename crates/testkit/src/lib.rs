//! handover-testkit
