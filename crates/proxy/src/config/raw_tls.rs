//! The part of the configuration as it is written that is about TLS, tickets, watching and guards.

use handover_tls::Version;

use super::decode::{Many, OneOrMany, choice, table};
use super::model::UnknownNames;
use super::share::Percent;
use super::values::{Count, DAY, HOUR, MINUTE, SECOND, Time};

/// The most certificates of one configuration, all listeners together.
pub(super) const MAX_CERTIFICATES: usize = 20_000;

table! {
    /// TLS on a listener: `certificate` and `key`, or a list of `certificates`, or both.
    RawListenerTls: "the tls of a listener", requires [];
    /// PEM file with the certificate, followed by those of the authorities between it and a root.
    certificate: String;
    /// PEM file with its private key, not encrypted. If left out, it is in the file of the certificate.
    key: String;
    /// Several certificates. A client gets one for the name that it asks for (exactly, or by a wildcard), and of several
    /// for one name one of a key type that it understands.
    certificates: Many<RawCertificate, MAX_CERTIFICATES>;
    /// What clients get that ask for a name which no certificate has.
    unknown_names: RawUnknownNames = RawUnknownNames(UnknownNames::Default);
    /// The oldest version of TLS that is spoken.
    minimum_version: RawVersion = RawVersion(Version::Tls12);
    /// Protocols that are offered (RFC 7301), the preferred one first. If left out: `http/1.1` where HTTP is spoken, none
    /// where bytes are passed on.
    alpn: OneOrMany<String>;
    /// Whether clients must show a certificate issued by `client_ca`; if left out, they are not asked.
    client_certificates: RawClientCertificates;
    /// PEM file with the authorities that clients' certificates must come from.
    client_ca: String;
    /// The header field in which endpoints get the subject of the client's certificate. It is removed from what clients
    /// send themselves.
    client_subject_header: String;
}

table! {
    /// A certificate and its key.
    RawCertificate: "a certificate", requires ["certificate"], short for certificate;
    /// PEM file with the certificate, followed by those of the authorities between it and a root.
    certificate: String;
    /// PEM file with its private key, not encrypted. If left out, it is in the file of the certificate.
    key: String;
    /// Clients get it that ask for no name. Without any it is the first.
    default: bool = false;
}

choice! {
    /// What clients get that ask for a name which no certificate has.
    RawUnknownNames = UnknownNames: "treatment of unknown names";
    /// The default certificate; the client decides.
    "default" => UnknownNames::Default;
    /// The alert `unrecognized_name`, and no connection.
    "refuse" => UnknownNames::Refuse;
}

choice! {
    /// A version of TLS.
    RawVersion = Version: "version of TLS";
    /// TLS 1.2 and later.
    "1.2" => Version::Tls12;
    /// TLS 1.3 and later.
    "1.3" => Version::Tls13;
}

/// Whether clients must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    Required,
    Optional,
}

choice! {
    /// Whether clients must show a certificate.
    RawClientCertificates = Asked: "rule for clients' certificates";
    /// A client without one is refused.
    "required" => Asked::Required;
    /// A client without one is let in; one whose certificate cannot be verified is not.
    "optional" => Asked::Optional;
}

table! {
    /// TLS to the endpoints of a service.
    RawServiceTls: "the tls of a service", requires [];
    /// The name that endpoints are asked for and must prove; if left out, the host of each endpoint.
    server_name: String;
    /// PEM file with the authorities that are trusted; if left out, the system's.
    ca: String;
    /// PEM file with our own certificate, for endpoints that ask for one.
    certificate: String;
    /// PEM file with its private key. If left out, it is in the file of the certificate.
    key: String;
    /// Verify who answers. `false` believes everybody, and protects from nobody who can change what is sent.
    verify: bool = true;
}

table! {
    /// How keys of session tickets change. They are kept across reloads.
    RawTickets: "tickets", requires [];
    /// How long one key makes tickets.
    rotate: Time<MINUTE, { 7 * DAY }> = Time::ms(12 * HOUR);
    /// How many older keys still open theirs.
    keep: Count<0, 16> = Count(2);
}

table! {
    /// Reload by itself when files change. The table alone, `[watch]`, is enough.
    RawWatch: "watch", requires [];
    /// How long nothing may have changed before the files are read.
    settle: Time<10, MINUTE> = Time::ms(500);
    /// After files that were refused: how long until they are tried again.
    retry: Time<SECOND, HOUR> = Time::ms(10 * SECOND);
    /// How often a configuration is asked for that is a web page (`--config https://…`); etcd tells by itself.
    poll: Time<SECOND, HOUR> = Time::ms(30 * SECOND);
}

table! {
    /// Watch every change for its first seconds, and go back by itself if it does worse than what served before. The
    /// table alone, `[guard]`, is enough.
    RawGuard: "guard", requires [];
    /// How long a change is watched.
    watch: Time<SECOND, { 10 * MINUTE }> = Time::ms(10 * SECOND);
    /// From how many requests (connects, handshakes) on a limit holds.
    requests: Count<1, 1_000_000> = Count(10);
    /// By how many percentage points the share of 5xx responses may rise.
    errors_5xx: Percent = Percent::of(5);
    /// By how many percentage points the share of failed connects to endpoints may rise.
    connect_failures: Percent = Percent::of(5);
    /// By how many percentage points the share of failed TLS handshakes with clients may rise.
    handshake_failures: Percent = Percent::of(5);
}
