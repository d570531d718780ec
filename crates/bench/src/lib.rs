//! handover-bench
