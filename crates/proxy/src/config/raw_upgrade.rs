//! The part of the configuration as it is written that is about upgrades.

use super::decode::{OneOrMany, table};
use super::values::Principal;

table! {
    /// Which binaries an upgrade may run; every rule that is given must be kept. Without this table any may that nobody
    /// but root, or the user that runs the server, can change.
    RawUpgrade: "upgrade", requires [];
    /// The directory in or below which the binary must lie, or a list of them; anywhere if left out. Relative to the
    /// configuration file.
    directories: OneOrMany<String>;
    /// The user to whom the binary must belong.
    owner: Principal;
    /// The SHA-256 digest that the binary must have: 64 hexadecimal digits, as `sha256sum` prints them.
    sha256: String;
    /// The minisign public key whose signature of the binary must lie beside it, in `PATH.minisig`: the second line of
    /// the key's file.
    public_key: String;
}
