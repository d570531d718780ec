//! Versions and cipher suites that sessions speak: the AEAD ones of TLS 1.3 and of TLS 1.2 with ECDHE.

use aws_lc_rs::{aead, hkdf};
use rustls::CipherSuite;

/// A version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

impl Version {
    /// `TLSv1.2` or `TLSv1.3`: the words that nginx and OpenSSL use.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls12 => "TLSv1.2",
            Self::Tls13 => "TLSv1.3",
        }
    }
}

/// What protects records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// A cipher suite, by its number in the registry of TLS parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Suite(u16);

impl Suite {
    /// The suite with this number, if sessions speak it.
    #[must_use]
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            0x1301..=0x1303 | 0xc02b | 0xc02c | 0xc02f | 0xc030 | 0xcca8 | 0xcca9 => Some(Self(number)),
            _ => None,
        }
    }

    /// The suite that rustls negotiated, if sessions speak it.
    #[must_use]
    pub fn of(suite: CipherSuite) -> Option<Self> {
        Self::from_number(u16::from(suite))
    }

    /// Its number in the registry of TLS parameters.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Its name in the registry of TLS parameters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0x1301 => "TLS_AES_128_GCM_SHA256",
            0x1302 => "TLS_AES_256_GCM_SHA384",
            0x1303 => "TLS_CHACHA20_POLY1305_SHA256",
            0xc02b => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
            0xc02c => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            0xc02f => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
            0xc030 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
            0xcca8 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
            _ => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        }
    }

    /// The version that it belongs to: no suite belongs to both.
    #[must_use]
    pub const fn version(self) -> Version {
        match self.0 {
            0x1301..=0x1303 => Version::Tls13,
            _ => Version::Tls12,
        }
    }

    pub(crate) const fn cipher(self) -> Cipher {
        match self.0 {
            0x1301 | 0xc02b | 0xc02f => Cipher::Aes128Gcm,
            0x1302 | 0xc02c | 0xc030 => Cipher::Aes256Gcm,
            _ => Cipher::ChaCha20Poly1305,
        }
    }

    /// The hash of the key schedule (TLS 1.3 only).
    pub(crate) const fn hash(self) -> hkdf::Algorithm {
        match self.0 {
            0x1302 => hkdf::HKDF_SHA384,
            _ => hkdf::HKDF_SHA256,
        }
    }

    /// Bytes of a traffic secret (TLS 1.3 only).
    pub(crate) const fn secret_bytes(self) -> usize {
        match self.0 {
            0x1302 => 48,
            _ => 32,
        }
    }
}

impl Cipher {
    pub(crate) fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    pub(crate) const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }
}
