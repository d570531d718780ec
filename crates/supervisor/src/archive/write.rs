//! Making an archive.

use std::io::{self, Write};
use std::path::Path;

use handover_handoff::bundle::BundleFile;
use tar::{Builder, EntryType, Header};

use super::manifest::entry_name;
use super::{
    ArchivedFile, CARRIED, FORMAT, FORMAT_VERSION, HISTORY, Keys, LEVEL, MANIFEST, MAX_HISTORY_BYTES,
    Manifest, Part, has_private_key,
};
use crate::handle::BackupParts;

/// Writes what serves into `out`. `created` is when, RFC 3339 in UTC.
///
/// # Errors
/// As from `out`.
pub fn write(parts: &BackupParts, keys: Keys, created: &str, out: impl Write) -> io::Result<Manifest> {
    let history = history_of(parts);
    let carried = parts.carried.as_ref().filter(|_| keys == Keys::Included).map(|carried| &carried.0[..]);
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        version: FORMAT_VERSION,
        created: created.to_owned(),
        server: parts.name.clone(),
        server_version: parts.version.clone(),
        generation: parts.generation.number,
        committed_at: parts.generation.committed_at.clone(),
        digest: parts.bundle.digest(),
        keys,
        files: parts.bundle.files().map(|(path, file)| archived(path, file, parts.bundle.top())).collect(),
        carried: carried.map(part),
        history: Some(part(&history)),
    };
    let mut zstd = zstd::stream::write::Encoder::new(out, LEVEL)?;
    zstd.include_checksum(true)?;
    let mut tar = Builder::new(zstd);
    let mtime = created.parse::<jiff::Timestamp>().map_or(0, |time| time.as_second());
    let mtime = u64::try_from(mtime).unwrap_or(0);
    add(&mut tar, MANIFEST, &serde_json::to_vec_pretty(&manifest)?, mtime)?;
    for ((at, said), (_, file)) in manifest.files.iter().enumerate().zip(parts.bundle.files()) {
        if manifest.holds(said) {
            add(&mut tar, &entry_name(at, said), &file.bytes, mtime)?;
        }
    }
    if let Some(carried) = carried {
        add(&mut tar, CARRIED, carried, mtime)?;
    }
    add(&mut tar, HISTORY, &history, mtime)?;
    tar.into_inner()?.finish()?.flush()?;
    Ok(manifest)
}

fn archived(path: &Path, file: &BundleFile, top: Option<&Path>) -> ArchivedFile {
    ArchivedFile {
        path: path.to_owned(),
        bytes: file.bytes.len() as u64,
        blake3: file.digest.clone(),
        top: top == Some(path),
        built_in: !file.on_disk,
        key: has_private_key(&file.bytes),
    }
}

fn part(bytes: &[u8]) -> Part {
    Part { bytes: bytes.len() as u64, blake3: blake3::hash(bytes).to_hex().to_string() }
}

/// One operation a line, the newest first, as many as there is room for.
fn history_of(parts: &BackupParts) -> Vec<u8> {
    let mut lines = Vec::new();
    for operation in &parts.history {
        let Ok(line) = serde_json::to_vec(operation) else { continue };
        if lines.len() + line.len() >= MAX_HISTORY_BYTES {
            break;
        }
        lines.extend_from_slice(&line);
        lines.push(b'\n');
    }
    lines
}

fn add(tar: &mut Builder<impl Write>, name: &str, bytes: &[u8], mtime: u64) -> io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_mtime(mtime);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, name, bytes)
}
