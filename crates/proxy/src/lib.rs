//! handover-proxy
