//! handover-proxy

pub mod config;
pub mod routes;
