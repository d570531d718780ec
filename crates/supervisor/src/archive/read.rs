//! Taking an archive apart: every entry must be the one that comes next, and nothing is believed before it was
//! counted and hashed.

use std::io::{self, Read};
use std::sync::Arc;

use handover_api::Operation;
use tar::{Entries, EntryType};

use super::manifest::entry_name;
use super::{
    ArchiveError, CARRIED, HISTORY, MANIFEST, MAX_MANIFEST_BYTES, MAX_PADDING_BYTES, MAX_PLAIN_BYTES,
    MAX_WINDOW_LOG, Manifest, is_encrypted,
};

/// The first bytes of a zstd frame (RFC 8878 §3.1.1).
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Room that is taken before anything was read: lengths in an archive are claims.
const FIRST_ROOM: u64 = 1024 * 1024;

/// What an archive holds, all of it checked against its manifest.
#[derive(Debug)]
pub struct Archive {
    /// What it says about itself.
    pub manifest: Manifest,
    /// The files' bytes, in the manifest's order; `None` for those that were left out.
    pub(super) files: Vec<Option<Arc<[u8]>>>,
    /// The carried state.
    pub(super) carried: Option<Vec<u8>>,
    /// The last operations before it was made, the newest first.
    pub history: Vec<Operation>,
}

/// Reads an archive whole and checks everything.
///
/// Takes at most as much memory as a generation's files may have, and little more; ends in a time that is bounded
/// by that.
///
/// # Errors
/// See [`ArchiveError`].
pub fn read(mut input: impl Read) -> Result<Archive, ArchiveError> {
    let mut start = Vec::new();
    input.by_ref().take(64).read_to_end(&mut start).map_err(damaged)?;
    if is_encrypted(&start) {
        return Err(ArchiveError::Encrypted);
    }
    if !start.starts_with(&ZSTD_MAGIC) {
        return Err(ArchiveError::NotAnArchive);
    }
    let mut zstd = zstd::stream::read::Decoder::new(start.chain(input)).map_err(damaged)?;
    zstd.window_log_max(MAX_WINDOW_LOG).map_err(damaged)?;
    let mut tar = tar::Archive::new(zstd.take(MAX_PLAIN_BYTES));
    let archive = entries(&mut tar)?;
    nothing_follows(tar.into_inner())?;
    Ok(archive)
}

fn damaged(error: io::Error) -> ArchiveError {
    ArchiveError::Damaged(error.to_string())
}

fn entries(tar: &mut tar::Archive<impl Read>) -> Result<Archive, ArchiveError> {
    // Raw: no entry may mean something to the one after it (long names, links, sparse files).
    let mut entries = tar.entries().map_err(damaged)?.raw(true);
    let json = entry(&mut entries, MANIFEST, None, MAX_MANIFEST_BYTES)?;
    let manifest = Manifest::parse(&json)?;
    let mut files = Vec::new();
    for (at, file) in manifest.files.iter().enumerate() {
        if !manifest.holds(file) {
            files.push(None);
            continue;
        }
        let bytes = entry(&mut entries, &entry_name(at, file), Some(file.bytes), file.bytes)?;
        check_digest(&file.path.display().to_string(), &bytes, &file.blake3)?;
        files.push(Some(Arc::from(bytes)));
    }
    let mut part = |name: &str, part: Option<&super::Part>| {
        let Some(part) = part else { return Ok(None) };
        let bytes = entry(&mut entries, name, Some(part.bytes), part.bytes)?;
        check_digest(name, &bytes, &part.blake3)?;
        Ok(Some(bytes))
    };
    let carried = part(CARRIED, manifest.carried.as_ref())?;
    let history = part(HISTORY, manifest.history.as_ref())?.unwrap_or_default();
    let history = history.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let history = history.map(serde_json::from_slice).collect::<Result<Vec<Operation>, _>>();
    let history = history.map_err(|error| ArchiveError::Damaged(format!("its history: {error}")))?;
    match entries.next() {
        None => Ok(Archive { manifest, files, carried, history }),
        Some(Ok(more)) => Err(ArchiveError::Unexpected {
            found: format!("{:?}", String::from_utf8_lossy(&more.path_bytes())),
            expected: "its end".to_owned(),
        }),
        Some(Err(error)) => Err(damaged(error)),
    }
}

/// The next entry, which must have this name, and this length if it is known.
fn entry<R: Read>(
    entries: &mut Entries<'_, R>,
    name: &str,
    length: Option<u64>,
    most: u64,
) -> Result<Vec<u8>, ArchiveError> {
    let mut entry = match entries.next() {
        Some(entry) => entry.map_err(damaged)?,
        None => return Err(ArchiveError::Damaged(format!("it ends before {name}"))),
    };
    let unexpected = |found| Err(ArchiveError::Unexpected { found, expected: format!("{name:?}") });
    let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    if found != name {
        return unexpected(format!("{found:?}"));
    }
    if entry.header().entry_type() != EntryType::Regular {
        return unexpected(format!("{found:?}, which is no regular file"));
    }
    let size = entry.header().entry_size().map_err(damaged)?;
    if let Some(said) = length.filter(|said| *said != size) {
        return Err(ArchiveError::Length { entry: found, said, found: size });
    }
    if size > most {
        return Err(ArchiveError::TooBig(format!("{found} has {size} bytes, and may have {most}")));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(FIRST_ROOM)).unwrap_or(0));
    entry.by_ref().take(size).read_to_end(&mut bytes).map_err(damaged)?;
    if bytes.len() as u64 != size {
        return Err(ArchiveError::Damaged(format!("it ends within {name}")));
    }
    Ok(bytes)
}

fn check_digest(entry: &str, bytes: &[u8], said: &str) -> Result<(), ArchiveError> {
    if blake3::hash(bytes).to_hex().as_str() == said {
        return Ok(());
    }
    Err(ArchiveError::Digest { entry: entry.to_owned() })
}

/// After the last entry there are only zeros, and few; the compression's own end and checksum are read, too.
fn nothing_follows(mut rest: impl Read) -> Result<(), ArchiveError> {
    let mut padding = Vec::new();
    rest.by_ref().take(MAX_PADDING_BYTES + 1).read_to_end(&mut padding).map_err(damaged)?;
    if padding.len() as u64 > MAX_PADDING_BYTES || padding.iter().any(|byte| *byte != 0) {
        return Err(ArchiveError::Unexpected {
            found: "more bytes".to_owned(),
            expected: "its end".to_owned(),
        });
    }
    Ok(())
}
