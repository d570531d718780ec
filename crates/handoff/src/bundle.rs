//! The bytes of every file that a generation names.
//!
//! A worker reads each file once, while it prepares; from then on the generation is these bytes and no
//! longer the files. The supervisor keeps the bundle of the generation that serves: a worker that has to
//! be replaced starts from it, whatever stands on the disk by then.
//!
//! In its memory file a bundle is a magic number, the digest and the length of the index, the index (JSON), and
//! the files' bytes one after the other in the index's order. Digests are BLAKE3; they are checked on reading.

use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::iter::Peekable;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::memfd::{self, MemfdError, Sealed};

/// The first bytes of a bundle's memory file, its layout's version among them.
const MAGIC: &[u8; 8] = b"HOBUNDL1";
/// The most bytes that all files of one generation may have together.
pub const MAX_BUNDLE_BYTES: usize = 256 * 1024 * 1024;
/// The most files that one generation may name.
pub const MAX_BUNDLE_FILES: usize = 65_536;
/// Room for the index of a bundle that is full, at a generous length of path.
const MAX_INDEX_BYTES: usize = MAX_BUNDLE_FILES * 512;

/// The files of one generation, by the path under which they were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    top: Option<PathBuf>,
    files: BTreeMap<PathBuf, BundleFile>,
    bytes: usize,
}

/// One file of a [`Bundle`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleFile {
    /// What was read.
    pub bytes: Arc<[u8]>,
    /// BLAKE3 of the bytes, hexadecimal.
    pub digest: String,
    /// False for what is built into the program and only bears a name, not a path.
    pub on_disk: bool,
}

/// What can go wrong with a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// Adding a file would bring it over a limit.
    #[error(
        "the files of one generation are over the limit of {MAX_BUNDLE_BYTES} bytes or {MAX_BUNDLE_FILES} files"
    )]
    TooBig,
    /// The index cannot be written.
    #[error("the index of a bundle cannot be encoded: {0}")]
    Encode(#[source] serde_json::Error),
    /// The memory file could not be made or read.
    #[error(transparent)]
    Memfd(#[from] MemfdError),
    /// What was passed as a bundle is none, or not a whole one.
    #[error("a bundle of files is damaged: {0}")]
    Damaged(&'static str),
}

impl Bundle {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the top-level file.
    ///
    /// # Errors
    /// [`BundleError::TooBig`].
    pub fn insert_top(&mut self, path: &Path, bytes: Arc<[u8]>) -> Result<(), BundleError> {
        self.insert(path, bytes)?;
        self.top = Some(path.to_owned());
        Ok(())
    }

    /// Adds a file; one that was added under the same path before is replaced.
    ///
    /// # Errors
    /// [`BundleError::TooBig`].
    pub fn insert(&mut self, path: &Path, bytes: Arc<[u8]>) -> Result<(), BundleError> {
        self.insert_file(path.to_owned(), bytes, true)
    }

    /// Adds a top-level "file" that is built into the program and is not on the disk.
    ///
    /// # Errors
    /// [`BundleError::TooBig`].
    pub fn insert_built_in_top(&mut self, name: &str, bytes: Arc<[u8]>) -> Result<(), BundleError> {
        self.insert_file(PathBuf::from(name), bytes, false)?;
        self.top = Some(PathBuf::from(name));
        Ok(())
    }

    fn insert_file(&mut self, path: PathBuf, bytes: Arc<[u8]>, on_disk: bool) -> Result<(), BundleError> {
        let digest = blake3::hash(&bytes).to_hex().to_string();
        self.insert_hashed(path, BundleFile { bytes, digest, on_disk })
    }

    fn insert_hashed(&mut self, path: PathBuf, file: BundleFile) -> Result<(), BundleError> {
        let before = self.files.get(&path).map_or(0, |file| file.bytes.len());
        let total = self.bytes.saturating_sub(before).saturating_add(file.bytes.len());
        if total > MAX_BUNDLE_BYTES || self.files.len() >= MAX_BUNDLE_FILES {
            return Err(BundleError::TooBig);
        }
        self.bytes = total;
        self.files.insert(path, file);
        Ok(())
    }

    /// The path of the top-level file, if there is one.
    #[must_use]
    pub fn top(&self) -> Option<&Path> {
        self.top.as_deref()
    }

    /// The bytes of the top-level file.
    #[must_use]
    pub fn top_bytes(&self) -> Option<&Arc<[u8]>> {
        self.get(self.top()?)
    }

    /// The bytes that were read under this path.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&Arc<[u8]>> {
        self.files.get(path).map(|file| &file.bytes)
    }

    /// All files, the top-level one first, then by path.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &BundleFile)> {
        let top = self.top.as_deref();
        let first = top.and_then(|top| self.files.get_key_value(top));
        let others = self.files.iter().filter(move |(path, _)| top != Some(path.as_path()));
        first.into_iter().chain(others).map(|(path, file)| (path.as_path(), file))
    }

    /// True if there is no file in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// BLAKE3, hexadecimal, over the paths and digests of all files: two bundles with the same one are the same.
    #[must_use]
    pub fn digest(&self) -> String {
        digest_of(self.files().map(|(path, file)| (path, file.digest.as_str())))
    }

    /// What it consists of, without the bytes.
    #[must_use]
    pub fn index(&self) -> Index {
        let files = self.files().map(|(path, file)| IndexFile {
            path: PathText::from(path),
            bytes: file.bytes.len() as u64,
            digest: file.digest.clone(),
            on_disk: file.on_disk,
        });
        Index { top: self.top.as_deref().map(PathText::from), files: files.collect() }
    }

    /// The bundle that an index describes. `read` gives a file's bytes by its digest; they are checked.
    ///
    /// # Errors
    /// `read` fails, the bytes are not those of the index, or there are too many.
    pub fn from_index<E: From<BundleError>>(
        index: Index,
        mut read: impl FnMut(&IndexFile) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let mut bundle = Bundle::new();
        for file in index.files {
            let bytes = read(&file)?;
            let digest = blake3::hash(&bytes).to_hex().to_string();
            if digest != file.digest {
                let damaged = "a file does not have the digest that the index gives it";
                return Err(BundleError::Damaged(damaged).into());
            }
            let content = BundleFile { bytes: Arc::from(bytes), digest, on_disk: file.on_disk };
            bundle.insert_hashed(file.path.into(), content)?;
        }
        bundle.top = index.top.map(PathBuf::from);
        bundle.check_top()?;
        Ok(bundle)
    }

    fn check_top(&self) -> Result<(), BundleError> {
        match &self.top {
            Some(top) if !self.files.contains_key(top) => {
                Err(BundleError::Damaged("its top-level file is missing"))
            }
            _ => Ok(()),
        }
    }

    /// Writes the bundle into a sealed memory file.
    ///
    /// # Errors
    /// The system is out of memory or the process out of descriptors.
    pub fn to_memfd(&self) -> Result<OwnedFd, BundleError> {
        let index = self.index().encode()?;
        let mut bytes = Vec::with_capacity(MAGIC.len() + blake3::OUT_LEN + 8 + index.len() + self.bytes);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(blake3::hash(&index).as_bytes());
        bytes.extend_from_slice(&(index.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&index);
        for (_, file) in self.files() {
            bytes.extend_from_slice(&file.bytes);
        }
        Ok(memfd::sealed("handover-bundle", &bytes)?)
    }

    /// Reads a bundle from a sealed memory file and checks every digest.
    ///
    /// # Errors
    /// It is not sealed, too big, or no whole bundle.
    pub fn from_memfd(file: impl AsFd) -> Result<Self, BundleError> {
        Self::from_memfd_like(file, &Bundle::new())
    }

    /// The same where another bundle is at hand that has mostly the same files: one that has the same path, length
    /// and digest there is shared with it, and neither read nor hashed.
    ///
    /// # Errors
    /// It is not sealed, too big, or no whole bundle.
    pub fn from_memfd_like(file: impl AsFd, like: &Bundle) -> Result<Self, BundleError> {
        let sealed = Sealed::of(file, MAX_BUNDLE_BYTES + MAX_INDEX_BYTES)?;
        let damaged = BundleError::Damaged;
        let (index, mut at) = Index::read(&sealed)?;
        let top = index.top.map(PathBuf::from);
        let mut known = Known { all: like, next: like.files.iter().peekable() };
        let mut files: Vec<(PathBuf, BundleFile)> = Vec::with_capacity(index.files.len());
        let mut unread: Vec<IndexFile> = Vec::new();
        let mut run = at;
        for file in index.files {
            let length = usize::try_from(file.bytes).unwrap_or(usize::MAX);
            let after = at.checked_add(length).filter(|&after| after <= sealed.length);
            let after = after.ok_or(damaged("a file is cut short"))?;
            let known = known.find(file.path.as_path(), top.as_deref());
            match known.filter(|known| known.digest == file.digest && known.bytes.len() == length) {
                Some(known) => {
                    read_run(&sealed, run..at, &mut unread, &mut files)?;
                    run = after;
                    files.push(file.with(Arc::clone(&known.bytes)));
                }
                None => unread.push(file),
            }
            at = after;
        }
        read_run(&sealed, run..at, &mut unread, &mut files)?;
        if at != sealed.length {
            return Err(damaged("there is more in it than its index says"));
        }
        let bundle = Self::of_files(top, files)?;
        bundle.check_top()?;
        Ok(bundle)
    }

    /// Of files that are hashed already.
    fn of_files(top: Option<PathBuf>, files: Vec<(PathBuf, BundleFile)>) -> Result<Self, BundleError> {
        let (count, bytes) = (files.len(), files.iter().map(|(_, file)| file.bytes.len()).sum());
        if bytes > MAX_BUNDLE_BYTES || count > MAX_BUNDLE_FILES {
            return Err(BundleError::TooBig);
        }
        // All at once: they are in order but for the first, and need not be looked for one by one.
        let files = BTreeMap::from_iter(files);
        if files.len() != count {
            return Err(BundleError::Damaged("a file is in it twice"));
        }
        Ok(Bundle { top, files, bytes })
    }
}

/// The files of a bundle that another one may be like, walked through in step with it.
struct Known<'a> {
    all: &'a Bundle,
    next: Peekable<btree_map::Iter<'a, PathBuf, BundleFile>>,
}

impl<'a> Known<'a> {
    /// The file with this path. Paths are asked for in their order, but for the top-level file, which comes first.
    fn find(&mut self, path: &Path, top: Option<&Path>) -> Option<&'a BundleFile> {
        if Some(path) == top {
            return self.all.files.get(path);
        }
        while let Some(&(candidate, file)) = self.next.peek() {
            // The quick way to find equal ones; the other one says on which side those are that are not.
            if candidate.as_os_str() == path.as_os_str() {
                return Some(file);
            }
            match candidate.as_path().cmp(path) {
                Ordering::Less => self.next.next(),
                Ordering::Equal => return Some(file),
                Ordering::Greater => return None,
            };
        }
        None
    }
}

/// Reads files that lie one after the other, in one go, and checks them.
fn read_run(
    sealed: &Sealed,
    run: Range<usize>,
    unread: &mut Vec<IndexFile>,
    files: &mut Vec<(PathBuf, BundleFile)>,
) -> Result<(), BundleError> {
    if unread.is_empty() {
        return Ok(());
    }
    let damaged = BundleError::Damaged;
    let bytes = sealed.read(run.start, run.end.saturating_sub(run.start))?;
    let mut rest = bytes.as_slice();
    for file in unread.drain(..) {
        let length = usize::try_from(file.bytes).unwrap_or(usize::MAX);
        let (content, after) = rest.split_at_checked(length).ok_or(damaged("a file is cut short"))?;
        rest = after;
        if blake3::hash(content).to_hex().as_str() != file.digest {
            return Err(damaged("a file does not have the digest that the index gives it"));
        }
        files.push(file.with(Arc::from(content)));
    }
    Ok(())
}

/// BLAKE3 over paths and digests.
fn digest_of<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> String {
    /// Hashing many bytes at a time is several times faster.
    const AT_A_TIME: usize = 64 * 1024;
    let mut hasher = blake3::Hasher::new();
    let mut bytes = Vec::with_capacity(AT_A_TIME);
    for (path, digest) in files {
        let path = path.as_os_str().as_bytes();
        bytes.extend_from_slice(&(path.len() as u64).to_le_bytes());
        bytes.extend_from_slice(path);
        bytes.extend_from_slice(digest.as_bytes());
        if bytes.len() >= AT_A_TIME {
            hasher.update(&bytes);
            bytes.clear();
        }
    }
    hasher.update(&bytes);
    hasher.finalize().to_hex().to_string()
}

/// What a bundle consists of: paths, lengths and digests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Index {
    top: Option<PathText>,
    files: Vec<IndexFile>,
}

/// One file of an [`Index`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexFile {
    path: PathText,
    bytes: u64,
    digest: String,
    on_disk: bool,
}

impl IndexFile {
    /// The file, with its bytes.
    fn with(self, bytes: Arc<[u8]>) -> (PathBuf, BundleFile) {
        (self.path.into(), BundleFile { bytes, digest: self.digest, on_disk: self.on_disk })
    }

    /// Its path, or its name if it is built into the program.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.path.as_path()
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// BLAKE3 of its bytes, hexadecimal.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

impl Index {
    /// All files, the top-level one first, then by path.
    #[must_use]
    pub fn files(&self) -> &[IndexFile] {
        &self.files
    }

    /// What [`Bundle::digest`] says of the bundle that it describes.
    #[must_use]
    pub fn digest(&self) -> String {
        digest_of(self.files.iter().map(|file| (file.path(), file.digest())))
    }

    /// As JSON.
    ///
    /// # Errors
    /// It cannot be written as JSON, which does not happen.
    pub fn encode(&self) -> Result<Vec<u8>, BundleError> {
        serde_json::to_vec(self).map_err(BundleError::Encode)
    }

    /// From JSON.
    ///
    /// # Errors
    /// It is no index.
    pub fn decode(json: &[u8]) -> Result<Self, BundleError> {
        serde_json::from_slice(json).map_err(|_| BundleError::Damaged("its index cannot be understood"))
    }

    /// Reads and checks the index; and where in the file the first file's bytes begin.
    fn read(sealed: &Sealed) -> Result<(Index, usize), BundleError> {
        const HEAD: usize = MAGIC.len() + blake3::OUT_LEN + 8;
        let damaged = BundleError::Damaged;
        let head = sealed.read(0, sealed.length.min(HEAD))?;
        let rest = head.strip_prefix(MAGIC).ok_or(damaged("it does not start with its magic number"))?;
        let (digest, rest) =
            rest.split_first_chunk::<{ blake3::OUT_LEN }>().ok_or(damaged("it has no index"))?;
        let (length, _) = rest.split_first_chunk::<8>().ok_or(damaged("it has no index"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let end = HEAD.checked_add(length).filter(|&end| end <= sealed.length);
        let end = end.ok_or(damaged("its index is cut short"))?;
        let index = sealed.read(HEAD, length)?;
        if blake3::hash(&index) != *digest {
            return Err(damaged("its index does not have its digest"));
        }
        Ok((Index::decode(&index)?, end))
    }
}

/// A path in JSON: as text where it is text, else byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
enum PathText {
    Text(String),
    Bytes(Vec<u8>),
}

/// By hand, because there are many: what serde makes for untagged enums keeps everything twice for a while.
impl<'de> Deserialize<'de> for PathText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PathVisitor)
    }
}

struct PathVisitor;

impl<'de> Visitor<'de> for PathVisitor {
    type Value = PathText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path")
    }

    fn visit_str<E>(self, text: &str) -> Result<PathText, E> {
        Ok(PathText::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<PathText, A::Error> {
        let mut bytes = Vec::new();
        while let Some(byte) = sequence.next_element()? {
            bytes.push(byte);
        }
        Ok(PathText::Bytes(bytes))
    }
}

impl PathText {
    fn as_path(&self) -> &Path {
        match self {
            PathText::Text(text) => Path::new(text),
            PathText::Bytes(bytes) => Path::new(OsStr::from_bytes(bytes)),
        }
    }
}

impl From<&Path> for PathText {
    fn from(path: &Path) -> Self {
        match path.to_str() {
            Some(text) => PathText::Text(text.to_owned()),
            None => PathText::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

impl From<PathText> for PathBuf {
    fn from(text: PathText) -> Self {
        match text {
            PathText::Text(text) => PathBuf::from(text),
            PathText::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Bundle {
        let mut bundle = Bundle::new();
        bundle.insert(Path::new("/a/body.html"), Arc::from(&b"<p>hello"[..])).unwrap();
        bundle.insert_top(Path::new("/z/hello.toml"), Arc::from(&b"listeners = []"[..])).unwrap();
        bundle.insert(Path::new("/a/empty"), Arc::from(&b""[..])).unwrap();
        bundle
    }

    #[test]
    fn a_bundle_comes_back_from_its_memory_file_as_it_was() {
        let odd = PathBuf::from(OsString::from_vec(b"/a/\xff.key".to_vec()));
        let mut bundle = example();
        bundle.insert(&odd, Arc::from(&[0, 255, 10][..])).unwrap();
        let back = Bundle::from_memfd(bundle.to_memfd().unwrap()).unwrap();
        assert_eq!(back, bundle);
        assert_eq!(back.digest(), bundle.digest());
        assert_eq!(&back.top_bytes().unwrap()[..], b"listeners = []");
        assert_eq!(back.get(&odd).unwrap()[..], [0, 255, 10]);
    }

    #[test]
    fn what_another_bundle_has_is_shared_with_it_and_what_differs_is_read_and_checked() {
        let before = example();
        let mut after = example();
        after.insert(Path::new("/a/empty"), Arc::from(&b"no more"[..])).unwrap();
        after.insert(Path::new("/b/new"), Arc::from(&b"new"[..])).unwrap();
        let memfd = after.to_memfd().unwrap();
        let read = Bundle::from_memfd_like(&memfd, &before).unwrap();
        assert_eq!(read, after);
        for (path, shared) in [("/a/body.html", true), ("/z/hello.toml", true), ("/a/empty", false)] {
            let (old, new) = (before.get(Path::new(path)).unwrap(), read.get(Path::new(path)).unwrap());
            assert_eq!(Arc::ptr_eq(old, new), shared, "{path}");
        }
        let whole = memfd::read_sealed(&memfd, 1 << 20).unwrap();
        for at in [whole.len() - 1, whole.len() - 4] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let file = memfd::sealed("test", &bytes).unwrap();
            assert!(Bundle::from_memfd_like(file, &before).is_err(), "byte {at} changed");
        }
    }

    #[test]
    fn the_top_level_file_comes_first() {
        let bundle = example();
        let paths: Vec<_> = bundle.files().map(|(path, _)| path.to_str().unwrap()).collect();
        assert_eq!(paths, ["/z/hello.toml", "/a/body.html", "/a/empty"]);
    }

    #[test]
    fn the_digest_changes_with_any_byte_and_any_path() {
        let digest = example().digest();
        let mut other = example();
        other.insert(Path::new("/a/body.html"), Arc::from(&b"<p>hello!"[..])).unwrap();
        assert_ne!(other.digest(), digest);
        let mut other = example();
        other.insert(Path::new("/a/more"), Arc::from(&b""[..])).unwrap();
        assert_ne!(other.digest(), digest);
    }

    #[test]
    fn no_damaged_bundle_is_taken() {
        let whole = memfd::read_sealed(example().to_memfd().unwrap(), 1 << 20).unwrap();
        for cut in 0..whole.len() {
            let file = memfd::sealed("test", &whole[..cut]).unwrap();
            assert!(Bundle::from_memfd(file).is_err(), "cut to {cut} of {} bytes", whole.len());
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            let file = memfd::sealed("test", &bytes).unwrap();
            assert!(Bundle::from_memfd(file).is_err(), "byte {at} changed");
        }
        let mut longer = whole;
        longer.push(0);
        assert!(Bundle::from_memfd(memfd::sealed("test", &longer).unwrap()).is_err());
    }
}
