//! Alerts: the one word with which TLS says why it ends (RFC 8446 §6, RFC 5246 §7.2).

use std::fmt;

/// The number of an alert, with its name in the registry of TLS parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Alert(pub u8);

impl Alert {
    /// The sender will send nothing more: the orderly end.
    pub const CLOSE_NOTIFY: Self = Self(0);
    /// A message that must not come now.
    pub const UNEXPECTED_MESSAGE: Self = Self(10);
    /// A record that cannot be decrypted.
    pub const BAD_RECORD_MAC: Self = Self(20);
    /// A record longer than the protocol allows.
    pub const RECORD_OVERFLOW: Self = Self(22);
    /// No acceptable parameters were offered.
    pub const HANDSHAKE_FAILURE: Self = Self(40);
    /// A certificate that was refused.
    pub const BAD_CERTIFICATE: Self = Self(42);
    /// A certificate of a kind that is not taken.
    pub const UNSUPPORTED_CERTIFICATE: Self = Self(43);
    /// A certificate whose time is over.
    pub const CERTIFICATE_EXPIRED: Self = Self(45);
    /// A field is wrong in itself or against others.
    pub const ILLEGAL_PARAMETER: Self = Self(47);
    /// The sender may not do this.
    pub const ACCESS_DENIED: Self = Self(49);
    /// A message that cannot be read.
    pub const DECODE_ERROR: Self = Self(50);
    /// The version of the protocol is known, and not spoken here.
    pub const PROTOCOL_VERSION: Self = Self(70);
    /// Something failed here, not there.
    pub const INTERNAL_ERROR: Self = Self(80);
    /// The user gave up; close_notify follows.
    pub const USER_CANCELED: Self = Self(90);
    /// TLS 1.2: no new handshake on this connection.
    pub const NO_RENEGOTIATION: Self = Self(100);
    /// There is no certificate for the name that was asked for (RFC 6066 §3).
    pub const UNRECOGNIZED_NAME: Self = Self(112);
    /// A certificate is demanded and none was given.
    pub const CERTIFICATE_REQUIRED: Self = Self(116);
    /// None of the offered application protocols is spoken here (RFC 7301 §3.2).
    pub const NO_APPLICATION_PROTOCOL: Self = Self(120);

    /// Its name as RFC 8446 writes it, `unknown` for a number without a name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "close_notify",
            10 => "unexpected_message",
            20 => "bad_record_mac",
            21 => "decryption_failed",
            22 => "record_overflow",
            30 => "decompression_failure",
            40 => "handshake_failure",
            41 => "no_certificate",
            42 => "bad_certificate",
            43 => "unsupported_certificate",
            44 => "certificate_revoked",
            45 => "certificate_expired",
            46 => "certificate_unknown",
            47 => "illegal_parameter",
            48 => "unknown_ca",
            49 => "access_denied",
            50 => "decode_error",
            51 => "decrypt_error",
            60 => "export_restriction",
            70 => "protocol_version",
            71 => "insufficient_security",
            80 => "internal_error",
            86 => "inappropriate_fallback",
            90 => "user_canceled",
            100 => "no_renegotiation",
            109 => "missing_extension",
            110 => "unsupported_extension",
            111 => "certificate_unobtainable",
            112 => "unrecognized_name",
            113 => "bad_certificate_status_response",
            114 => "bad_certificate_hash_value",
            115 => "unknown_psk_identity",
            116 => "certificate_required",
            120 => "no_application_protocol",
            121 => "ech_required",
            _ => "unknown",
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            "unknown" => write!(f, "alert {}", self.0),
            name => f.write_str(name),
        }
    }
}
