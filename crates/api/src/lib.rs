//! handover-api
