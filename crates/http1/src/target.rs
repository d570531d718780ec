//! Request targets (RFC 9112 §3.2) and the `Host` header (RFC 9110 §7.2).

/// A checked host with an optional port, from the `Host` header or an absolute-form target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Host<'b> {
    /// As sent, port included.
    pub raw: &'b str,
    /// Without port; IPv6 addresses keep their brackets. Case as sent.
    pub name: &'b str,
    /// The port, if one was stated.
    pub port: Option<u16>,
}
