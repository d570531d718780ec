//! handover-http1
