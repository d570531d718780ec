//! Which binaries an upgrade may run.

use std::path::{Component, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::super::decode::{Field, OneOrMany};
use super::super::model::Upgrade;
use super::super::raw_upgrade::RawUpgrade;
use super::super::sink::Located;
use super::Cx;
use super::settings::user_number;

/// The bytes of a public key (minisign(1), "Public key format"): which algorithm, which key, the key.
const PUBLIC_KEY_BYTES: usize = 2 + 8 + 32;
/// The algorithm that a public key names: Ed25519.
const ED25519: &[u8] = b"Ed";

pub(super) fn upgrade(raw: Option<Located<RawUpgrade>>, cx: &mut Cx<'_>) -> Upgrade {
    let Some(Located { value: raw, .. }) = raw else { return Upgrade::default() };
    let owner = raw.owner.take();
    Upgrade {
        directories: directories(raw.directories, cx),
        owner: owner.and_then(|owner| user_number(&owner, cx)),
        sha256: raw.sha256.take().and_then(|text| sha256(&text, cx)),
        public_key: raw.public_key.take().and_then(|text| public_key(&text, cx)),
    }
}

fn directories(raw: Field<OneOrMany<String>>, cx: &mut Cx<'_>) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    for text in raw.take().iter().flat_map(|list| list.value.as_slice()) {
        let Some(path) = cx.path(text) else { continue };
        if path.components().any(|component| component == Component::ParentDir) {
            cx.sink
                .error(
                    text.span,
                    format!("{:?} goes back up: which directory that is depends on links", text.value),
                )
                .help("write the directory's own path");
        } else {
            directories.push(path);
        }
    }
    directories
}

fn sha256(text: &Located<String>, cx: &mut Cx<'_>) -> Option<String> {
    match handover_api::parse_sha256(&text.value) {
        Ok(digest) => Some(digest),
        Err(wrong) => {
            cx.sink.error(text.span, wrong);
            None
        }
    }
}

/// The key itself, not the comment above it and not a path to it.
fn public_key(text: &Located<String>, cx: &mut Cx<'_>) -> Option<String> {
    let key = text.value.trim();
    let bytes = STANDARD.decode(key).unwrap_or_default();
    if bytes.len() == PUBLIC_KEY_BYTES && bytes.starts_with(ED25519) {
        return Some(key.to_owned());
    }
    let report = cx.sink.error(text.span, "this is no public key of minisign");
    report.help(if key.starts_with("untrusted comment") {
        "leave out the line with the comment"
    } else if key.contains('/') && bytes.is_empty() || key.ends_with(".pub") {
        "write the key itself, not where it is: the second line of the file"
    } else {
        "it is the second line of the file that minisign -G writes, and begins with RW"
    });
    None
}
