//! handover-supervisor
