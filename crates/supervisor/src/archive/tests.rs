//! What is backed up comes back byte for byte; what is hostile or damaged is refused with a reason, in bounded
//! memory.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handover_api::{Actor, Cause, Generation, Kind, Operation, Outcome};
use handover_handoff::Bundle;
use tar::{Builder, EntryType, Header};

use super::*;
use crate::handle::{BackupParts, Carried};

const CREATED: &str = "2026-11-22T03:01:35.000Z";
const KEY: &[u8] = b"# mine\n-----BEGIN EC PRIVATE KEY-----\nc2VjcmV0\n-----END EC PRIVATE KEY-----\n";

/// A generation with a top-level file, a key, an empty file, one that is no text, and a path that is no text.
fn parts() -> BackupParts {
    let mut bundle = Bundle::new();
    bundle.insert_top(Path::new("/etc/site/site.toml"), Arc::from(&b"a = 1\n"[..])).unwrap();
    bundle.insert(Path::new("/etc/site/../keys/a.key"), Arc::from(KEY)).unwrap();
    bundle.insert(Path::new("/etc/site/empty"), Arc::from(&b""[..])).unwrap();
    let noise: Vec<u8> = (0..70_000_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    bundle.insert(Path::new("/etc/site/noise.bin"), Arc::from(noise)).unwrap();
    let odd = PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(
        b"/etc/\xff/../x y\n".to_vec(),
    ));
    bundle.insert(&odd, Arc::from(&b"odd"[..])).unwrap();
    let mut operation = Operation::running("a-1", Kind::Reload, Actor::signal("HUP"), CREATED);
    operation.finish(Outcome::Applied, Cause::Done, 3.1);
    BackupParts {
        name: "handover".to_owned(),
        version: "0.1.0".to_owned(),
        generation: Generation {
            number: 7,
            serving: true,
            committed_at: CREATED.to_owned(),
            operation_id: None,
            source: None,
            files: Vec::new(),
            changes: Vec::new(),
            forgotten: false,
        },
        bundle,
        carried: Some(Carried(Arc::from(&b"ticket keys"[..]))),
        history: vec![operation],
    }
}

fn written(parts: &BackupParts, keys: Keys) -> Vec<u8> {
    let mut archive = Vec::new();
    write(parts, keys, CREATED, &mut archive).unwrap();
    archive
}

fn no_key(_: &Path) -> io::Result<Vec<u8>> {
    panic!("no key is missing")
}

fn refusal(archive: &[u8]) -> String {
    read(archive).unwrap_err().to_string()
}

/// What a tar file of an archive is made of, to be changed by whoever means ill.
struct Forged(Vec<(String, Vec<u8>, EntryType)>);

impl Forged {
    /// A real one.
    fn honest() -> Self {
        let archive = written(&parts(), Keys::Included);
        let mut tar = tar::Archive::new(zstd::stream::read::Decoder::new(&archive[..]).unwrap());
        let entries = tar.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut bytes = Vec::new();
            io::copy(&mut entry, &mut bytes).unwrap();
            (name, bytes, EntryType::Regular)
        });
        Self(entries.collect())
    }

    fn manifest(&mut self, change: impl FnOnce(&mut serde_json::Value)) {
        let mut manifest: serde_json::Value = serde_json::from_slice(&self.0[0].1).unwrap();
        change(&mut manifest);
        self.0[0].1 = serde_json::to_vec(&manifest).unwrap();
    }

    fn tar(&self) -> Vec<u8> {
        let mut tar = Builder::new(Vec::new());
        for (name, bytes, sort) in &self.0 {
            let mut header = Header::new_ustar();
            header.set_entry_type(*sort);
            header.set_mode(0o4777);
            header.set_size(bytes.len() as u64);
            // Names that the library would refuse to write are written all the same.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if *sort == EntryType::Symlink {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            tar.append(&header, &bytes[..]).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn archive(&self) -> Vec<u8> {
        zstd::stream::encode_all(&self.tar()[..], 1).unwrap()
    }
}

#[test]
fn everything_comes_back_byte_for_byte() {
    let parts = parts();
    let archive = read(&written(&parts, Keys::Included)[..]).unwrap();
    assert_eq!(archive.manifest.generation, 7);
    assert_eq!(archive.history, parts.history);
    assert_eq!(archive.left_out().count(), 0);
    let restored = archive.restored(no_key).unwrap();
    assert_eq!(restored.bundle, parts.bundle);
    assert_eq!(restored.carried, parts.carried);
    assert_eq!(restored.source, "the backup of generation 7, made 2026-11-22T03:01:35.000Z");
    assert!(restored.notes.is_empty());
}

#[test]
fn what_is_built_in_comes_back_as_such() {
    let mut parts = parts();
    parts.bundle = Bundle::new();
    parts.bundle.insert_built_in_top("built in", Arc::from(&b"a = 1\n"[..])).unwrap();
    let restored = read(&written(&parts, Keys::Included)[..]).unwrap().restored(no_key).unwrap();
    assert_eq!(restored.bundle, parts.bundle);
}

#[test]
fn keys_that_are_left_out_are_nowhere_in_it_and_come_from_the_disk() {
    let parts = parts();
    let bytes = written(&parts, Keys::LeftOut);
    let plain = zstd::stream::decode_all(&bytes[..]).unwrap();
    assert!(!plain.windows(8).any(|window| window == b"c2VjcmV0"));
    assert!(!plain.windows(11).any(|window| window == b"ticket keys"));
    let key_path = Path::new("/etc/site/../keys/a.key");
    let archive = || read(&bytes[..]).unwrap();
    assert_eq!(archive().left_out().map(|file| file.path.as_path()).collect::<Vec<_>>(), [key_path]);
    let same = archive().restored(|path| {
        assert_eq!(path, key_path);
        Ok(KEY.to_vec())
    });
    let same = same.unwrap();
    assert_eq!((&same.bundle, &same.carried), (&parts.bundle, &None));
    assert!(same.notes[0].detail.ends_with("the same as when the backup was made"), "{}", same.notes[0]);
    let other = archive().restored(|_| Ok(b"another key".to_vec())).unwrap();
    assert!(other.notes[0].detail.contains("which is not the same"), "{}", other.notes[0]);
    assert_eq!(&other.bundle.get(key_path).unwrap()[..], b"another key");
    let missing = archive().restored(|_| Err(io::ErrorKind::NotFound.into())).unwrap_err().to_string();
    assert!(
        missing.starts_with(
            "the backup was made without private keys, and /etc/site/../keys/a.key cannot be read"
        ),
        "{missing}"
    );
}

#[test]
fn an_archive_cut_anywhere_is_refused() {
    let archive = written(&parts(), Keys::Included);
    // Every place at both ends, where the heads and checksums are, and many in between.
    let cuts = (0..archive.len()).filter(|cut| *cut < 600 || cut + 600 > archive.len() || cut % 251 == 0);
    for cut in cuts {
        let error = refusal(&archive[..cut]);
        let known =
            ["does not begin like one", "is cut short or damaged"].iter().any(|words| error.contains(words));
        assert!(known, "cut at {cut}: {error}");
    }
}

#[test]
fn a_tar_file_cut_anywhere_is_refused_although_its_compression_is_whole() {
    let tar = Forged::honest().tar();
    // The two blocks of zeros at the end may be missing: everything is there without them.
    let end = tar.len() - 1024;
    for cut in (0..end).filter(|cut| *cut < 8192 || cut % 509 == 0) {
        let archive = zstd::stream::encode_all(&tar[..cut], 1).unwrap();
        assert!(read(&archive[..]).is_err(), "cut at {cut}");
    }
    assert!(read(&zstd::stream::encode_all(&tar[..end], 1).unwrap()[..]).is_ok());
}

#[test]
fn a_bit_that_was_turned_anywhere_is_found() {
    let archive = written(&parts(), Keys::Included);
    for at in (0..archive.len()).filter(|at| *at < 400 || at + 400 > archive.len() || at % 97 == 0) {
        let mut damaged = archive.clone();
        damaged[at] ^= 1 << (at % 8);
        // A turned bit that does not matter to what is read is allowed to not matter.
        if let Ok(archive) = read(&damaged[..]) {
            assert_eq!(archive.restored(no_key).unwrap().bundle, parts().bundle, "bit at {at}");
        }
    }
}

/// Below the compression, whose checksum would find it: heads, names, the manifest, files, padding.
#[test]
fn a_bit_that_was_turned_in_the_tar_file_is_found_or_means_nothing() {
    let tar = Forged::honest().tar();
    let before = read(&Forged::honest().archive()[..]).unwrap();
    for at in (0..tar.len()).filter(|at| *at < 2_500 || at % 211 == 0) {
        let mut damaged = tar.clone();
        damaged[at] ^= 1 << (at % 8);
        // What the manifest says about itself (when, by whom) has no digest; the files have.
        let Ok(archive) = read(&zstd::stream::encode_all(&damaged[..], 1).unwrap()[..]) else { continue };
        let same = archive.files().map(|(_, bytes)| bytes).eq(before.files().map(|(_, bytes)| bytes));
        assert!(same && archive.carried == before.carried, "bit at {at}");
        if let Ok(restored) = archive.restored(|_| Ok(KEY.to_vec())) {
            assert_eq!(restored.bundle, parts().bundle, "bit at {at}");
        }
    }
}

#[test]
fn noise_is_refused_and_never_panics() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..300 {
        let length = usize::try_from(next() % 2_000).unwrap();
        let mut noise: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0]).collect();
        match round % 3 {
            0 => {}
            1 => noise = zstd::stream::encode_all(&noise[..], 1).unwrap(),
            _ => {
                let mut forged = Forged::honest();
                let at = usize::try_from(next()).unwrap_or(0) % forged.0.len();
                forged.0[at].1 = noise;
                noise = forged.archive();
            }
        }
        assert!(read(&noise[..]).is_err(), "round {round}");
    }
}

#[test]
fn an_honest_forgery_is_accepted_so_that_the_others_prove_something() {
    let restored = read(&Forged::honest().archive()[..]).unwrap().restored(no_key).unwrap();
    assert_eq!(restored.bundle, parts().bundle);
}

#[test]
fn entries_that_are_not_those_of_the_manifest_are_refused() {
    /// What is done to it, how, and what is said about it.
    type Case = (&'static str, fn(&mut Forged), &'static str);
    let cases: [Case; 8] = [
        (
            "another name",
            |f| f.0[1].0 = "../../etc/passwd".to_owned(),
            "it has \"../../etc/passwd\" where \"files/00001-site.toml\" must be",
        ),
        ("an absolute name", |f| f.0[1].0 = "/etc/passwd".to_owned(), "it has \"/etc/passwd\" where"),
        ("a link", |f| (f.0[1].1, f.0[1].2) = (Vec::new(), EntryType::Symlink), "which is no regular file"),
        ("a device", |f| f.0[1].2 = EntryType::Block, "which is no regular file"),
        (
            "one more",
            |f| f.0.push(("more".to_owned(), b"x".to_vec(), EntryType::Regular)),
            "it has \"more\" where its end must be",
        ),
        ("one less", |f| drop(f.0.remove(2)), "must be"),
        ("two swapped", |f| f.0.swap(1, 2), "must be"),
        ("no manifest", |f| drop(f.0.remove(0)), "where \"manifest.json\" must be"),
    ];
    for (what, forge, says) in cases {
        let mut forged = Forged::honest();
        forge(&mut forged);
        let error = refusal(&forged.archive());
        assert!(error.contains(says), "{what}: {error}");
    }
}

#[test]
fn long_names_and_other_extensions_of_tar_mean_nothing() {
    for sort in [EntryType::GNULongName, EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNUSparse] {
        let mut forged = Forged::honest();
        forged.0.insert(1, ("files/00001-site.toml".to_owned(), b"/etc/passwd\0".to_vec(), sort));
        let error = refusal(&forged.archive());
        assert!(error.contains("which is no regular file"), "{sort:?}: {error}");
    }
}

#[test]
fn lengths_and_digests_that_are_not_true_are_refused() {
    let mut forged = Forged::honest();
    forged.0[1].1 = b"b = 2\n".to_vec();
    assert_eq!(
        refusal(&forged.archive()),
        "the backup was altered or damaged: /etc/site/site.toml does not have the digest that its manifest gives it"
    );
    let mut forged = Forged::honest();
    forged.0[1].1.push(b'\n');
    assert_eq!(
        refusal(&forged.archive()),
        "the backup was altered: files/00001-site.toml has 7 bytes, and its manifest says 6"
    );
    // A file under the name of another: each is whole, and the set is not.
    let mut forged = Forged::honest();
    forged.manifest(|manifest| manifest["files"][0]["path"] = "/etc/other/site.toml".into());
    let error = read(&forged.archive()[..]).unwrap().restored(no_key).unwrap_err().to_string();
    assert!(error.contains("the set of its files does not have the digest"), "{error}");
}

#[test]
fn manifests_that_cannot_be_believed_are_refused() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, &str); 13] = [
        (|m| m["format"] = "something".into(), "it does not begin like one"),
        (|m| m["version"] = 2.into(), "the backup has form 2, and this version of handover reads form 1"),
        (|m| m["version"] = "1".into(), "it does not begin like one"),
        (|m| m["surprise"] = 1.into(), "unknown field `surprise`"),
        (|m| m["files"][1]["path"] = "site.key".into(), "is not the whole path of a file"),
        (|m| m["files"][1]["path"] = "/".into(), "is not the whole path of a file"),
        (|m| m["files"][1]["path"] = "/a\0b".into(), "has a NUL byte"),
        (|m| m["files"][1]["path"] = "".into(), "is empty or too long"),
        (|m| m["files"][1]["path"] = format!("/{}", "x".repeat(5000)).into(), "is empty or too long"),
        (|m| m["files"][1]["path"] = m["files"][0]["path"].clone(), "is named twice"),
        (|m| m["files"][1]["top"] = true.into(), "cannot be the top-level file"),
        (|m| m["files"][1]["built_in"] = true.into(), "only the top-level one can be none"),
        (|m| m["keys"] = "left_out".into(), "it says that keys were left out"),
    ];
    for (change, says) in cases {
        let mut forged = Forged::honest();
        forged.manifest(change);
        let error = refusal(&forged.archive());
        assert!(error.contains(says), "{says}: {error}");
    }
}

#[test]
fn what_claims_to_be_huge_is_refused_before_room_is_taken_for_it() {
    type Change = fn(&mut serde_json::Value);
    let cases: [(Change, &str); 4] = [
        (|m| m["files"][1]["bytes"] = u64::MAX.into(), "can be served"),
        (|m| m["files"][1]["bytes"] = (300_u64 << 20).into(), "can be served"),
        (|m| m["carried"]["bytes"] = (2_u64 << 20).into(), "its carried state may have"),
        (|m| m["history"]["bytes"] = u64::MAX.into(), "its history may have"),
    ];
    for (change, says) in cases {
        let mut forged = Forged::honest();
        forged.manifest(change);
        let error = refusal(&forged.archive());
        assert!(error.contains(says), "{says}: {error}");
    }
    let mut forged = Forged::honest();
    forged.manifest(|manifest| {
        let file = manifest["files"][2].clone();
        let more = (0..MAX_BUNDLE_FILES).map(|n| {
            let mut file = file.clone();
            file["path"] = format!("/{n}").into();
            file
        });
        let more: Vec<serde_json::Value> = more.collect();
        manifest["files"].as_array_mut().unwrap().extend(more);
    });
    assert!(refusal(&forged.archive()).contains("files, and 65536 can be served"));
    // A header that claims 8 GiB, with nothing behind it.
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header.set_path(MANIFEST).unwrap();
    header.set_size(8 << 30);
    header.set_cksum();
    let error = refusal(&zstd::stream::encode_all(&header.as_bytes()[..], 1).unwrap());
    assert!(error.contains("manifest.json has 8589934592 bytes"), "{error}");
}

#[test]
fn a_bomb_is_read_no_further_than_an_archive_can_be_long() {
    /// Zeros without end, counted.
    struct Zeros<'a>(&'a std::cell::Cell<u64>);
    impl io::Read for Zeros<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(0);
            self.0.set(self.0.get() + buffer.len() as u64);
            Ok(buffer.len())
        }
    }
    // Behind the last entry: a gigabyte of zeros in a few kilobytes.
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    zstd.write_all(&Forged::honest().tar()).unwrap();
    let given = std::cell::Cell::new(0);
    io::copy(&mut io::Read::take(Zeros(&given), 1 << 30), &mut zstd).unwrap();
    let bomb = zstd.finish().unwrap();
    assert!(bomb.len() < 1 << 20);
    let error = refusal(&bomb);
    assert!(error.contains("it has more bytes where its end must be"), "{error}");
    // Of what is no archive at all, little is read.
    given.set(0);
    assert!(read(Zeros(&given)).is_err());
    assert!(given.get() < 1 << 20, "{}", given.get());
}

#[test]
fn a_window_that_takes_much_memory_is_refused() {
    let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    zstd.window_log(27).unwrap();
    zstd.write_all(&Forged::honest().tar()).unwrap();
    let archive = zstd.finish().unwrap();
    assert!(refusal(&archive).contains("cut short or damaged"), "{}", refusal(&archive));
}

#[test]
fn what_follows_an_archive_is_refused() {
    let mut archive = written(&parts(), Keys::Included);
    archive.extend_from_slice(b"and more");
    assert!(read(&archive[..]).is_err());
    let mut two = written(&parts(), Keys::Included);
    two.extend_from_slice(&written(&parts(), Keys::Included));
    assert!(refusal(&two).contains("more bytes"), "{}", refusal(&two));
}

#[test]
fn what_is_encrypted_is_known_by_its_first_bytes() {
    for start in [&b"age-encryption.org/v1\n"[..], b"-----BEGIN AGE ENCRYPTED FILE-----\n"] {
        assert!(matches!(read(start), Err(ArchiveError::Encrypted)));
    }
    assert!(matches!(read(&b""[..]), Err(ArchiveError::NotAnArchive)));
}

#[test]
fn every_way_to_write_a_private_key_is_seen() {
    for kind in
        ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "OPENSSH PRIVATE KEY"]
    {
        assert!(has_private_key(format!("text\n-----BEGIN {kind}-----\n").as_bytes()), "{kind}");
    }
    assert!(!has_private_key(
        b"-----BEGIN CERTIFICATE-----\n-----BEGIN PUBLIC KEY-----\nno PRIVATE KEY here"
    ));
}

#[test]
fn files_are_unpacked_below_the_directory_whatever_their_paths_say() {
    let below = |path: &str| unpacked_path(Path::new("/tmp/x"), Path::new(path)).display().to_string();
    assert_eq!(below("/etc/site/site.toml"), "/tmp/x/etc/site/site.toml");
    assert_eq!(below("/etc/site/../keys/a.key"), "/tmp/x/etc/keys/a.key");
    assert_eq!(below("/../../../etc/passwd"), "/tmp/x/etc/passwd");
    assert_eq!(below("../../x"), "/tmp/x/x");
}

/// An archive of the largest set of files is made and read in a time and memory that are no surprise.
#[test]
fn ten_thousand_certificates_are_archived() {
    let mut parts = parts();
    for n in 0..10_000_u32 {
        let bytes = format!("-----BEGIN CERTIFICATE-----\n{n}\n").into_bytes();
        parts.bundle.insert(Path::new(&format!("/etc/site/certificates/{n}.pem")), Arc::from(bytes)).unwrap();
    }
    let restored = read(&written(&parts, Keys::Included)[..]).unwrap().restored(no_key).unwrap();
    assert_eq!(restored.bundle.digest(), parts.bundle.digest());
}
