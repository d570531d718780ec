//! Binaries that are admitted, refused and broken; and copies of them.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A directory that only its owner can write, and a copy of a small program in it.
fn program() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("program");
    fs::copy("/bin/true", &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    (directory, path)
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn usual() -> UpgradeRules {
    UpgradeRules::default()
}

fn refused(path: &Path, rules: &UpgradeRules, sha256: Option<&str>) -> (Rule, String) {
    match admit(path, rules, sha256) {
        Err(ref error @ NotAdmitted::Refused { rule, .. }) => (rule, error.to_string()),
        other => panic!("{other:?}"),
    }
}

fn broken(path: &Path) -> String {
    match admit(path, &usual(), None) {
        Err(ref error @ NotAdmitted::Broken { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_good_binary_is_admitted_with_the_digest_that_sha256sum_shows() {
    let (_directory, path) = program();
    let admitted = admit(&path, &usual(), None).unwrap();
    let shown = std::process::Command::new("sha256sum").arg(&path).output().unwrap().stdout;
    assert_eq!(admitted.sha256, String::from_utf8(shown).unwrap().split(' ').next().unwrap());
    assert_eq!(admitted.path, path);
    assert_eq!(sha256_of(&admitted.executable).unwrap(), admitted.sha256);
    admit(&path, &usual(), Some(&admitted.sha256.to_uppercase())).unwrap();
}

#[test]
fn what_was_admitted_is_what_is_kept_whatever_stands_at_the_path_afterwards() {
    let (_directory, path) = program();
    let admitted = admit(&path, &usual(), None).unwrap();
    fs::remove_file(&path).unwrap();
    fs::copy("/bin/false", &path).unwrap();
    assert_eq!(sha256_of(&admitted.executable).unwrap(), admitted.sha256);
    admitted.check_unchanged().unwrap();
    assert_ne!(admit(&path, &usual(), None).unwrap().sha256, admitted.sha256);
}

#[test]
fn what_is_no_program_is_broken_and_the_sentence_says_why() {
    let (directory, path) = program();
    let missing = directory.path().join("missing");
    assert!(broken(&missing).ends_with("missing does not exist"), "{}", broken(&missing));
    assert!(broken(directory.path()).ends_with("is no regular file"), "{}", broken(directory.path()));
    let whole = fs::read(&path).unwrap();
    chmod(&path, 0o644);
    assert!(broken(&path).contains("is not executable"), "{}", broken(&path));
    chmod(&path, 0o755);
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(broken(&path).contains("is not whole"), "{}", broken(&path));
    fs::write(&path, "#!/bin/sh\nexec true\n").unwrap();
    assert!(broken(&path).contains("is a script"), "{}", broken(&path));
    fs::write(&path, "").unwrap();
    assert!(broken(&path).contains("it has only 0 bytes"), "{}", broken(&path));
}

#[test]
fn a_pipe_at_the_path_is_refused_and_not_waited_for() {
    let (directory, _path) = program();
    let pipe = directory.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    assert!(broken(&pipe).ends_with("is no regular file"));
}

#[test]
fn a_binary_that_others_can_write_is_refused_by_its_mode() {
    let (_directory, path) = program();
    for mode in [0o775, 0o757, 0o4755, 0o2755] {
        chmod(&path, mode);
        let (rule, said) = refused(&path, &usual(), None);
        assert_eq!(rule, Rule::Mode);
        assert!(said.contains(&format!("{mode:04o}")) && said.ends_with("(rule: mode)"), "{said}");
    }
}

#[test]
fn a_directory_in_which_others_can_replace_it_is_refused_unless_it_is_sticky() {
    let (directory, path) = program();
    chmod(directory.path(), 0o777);
    let (rule, said) = refused(&path, &usual(), None);
    assert_eq!(rule, Rule::Directory);
    assert!(said.contains("others can put another file in its place"), "{said}");
    chmod(directory.path(), 0o1777);
    admit(&path, &usual(), None).unwrap();
    // The same of those above: whoever can rename it can put another one there.
    let below = directory.path().join("bin");
    fs::create_dir(&below).unwrap();
    chmod(&below, 0o755);
    fs::rename(&path, below.join("program")).unwrap();
    admit(&below.join("program"), &usual(), None).unwrap();
    chmod(directory.path(), 0o777);
    let (rule, said) = refused(&below.join("program"), &usual(), None);
    assert_eq!(rule, Rule::Directory);
    assert!(said.contains(&format!("{} has mode 0777", directory.path().display())), "{said}");
}

#[test]
fn only_what_lies_in_an_allowed_directory_is_admitted_and_links_do_not_lead_out() {
    let (inside, path) = program();
    let (outside, other) = program();
    let rules = UpgradeRules { directories: vec![inside.path().to_owned()], ..usual() };
    admit(&path, &rules, None).unwrap();
    let (rule, said) = refused(&other, &rules, None);
    assert_eq!(rule, Rule::Directory);
    assert!(said.contains(&outside.path().display().to_string()), "{said}");
    let link = inside.path().join("link");
    std::os::unix::fs::symlink(&other, &link).unwrap();
    assert_eq!(refused(&link, &rules, None).0, Rule::Directory);
    let link = outside.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert_eq!(admit(&link, &rules, None).unwrap().path, link, "a link is kept as it was named");
    // As text it is inside.
    let dotted = inside.path().join("..").join(outside.path().file_name().unwrap()).join("program");
    assert_eq!(refused(&dotted, &rules, None).0, Rule::Directory);
}

#[test]
fn a_digest_that_is_pinned_must_be_the_files() {
    let (_directory, path) = program();
    let wrong = "0".repeat(64);
    let (rule, said) = refused(&path, &usual(), Some(&wrong));
    assert_eq!(rule, Rule::Sha256);
    assert!(said.contains(&wrong) && said.contains("asked for"), "{said}");
    let own = admit(&path, &usual(), None).unwrap().sha256;
    let rules = UpgradeRules { sha256: Some(wrong), ..usual() };
    assert!(refused(&path, &rules, Some(&own)).1.contains("configured"));
}

#[test]
fn an_owner_that_is_configured_is_the_only_one() {
    let (_directory, path) = program();
    let me = rustix::process::geteuid().as_raw();
    admit(&path, &UpgradeRules { owner: Some(me), ..usual() }, None).unwrap();
    let (rule, said) = refused(&path, &UpgradeRules { owner: Some(me + 1), ..usual() }, None);
    assert_eq!(rule, Rule::Owner);
    assert!(said.contains(&format!("it belongs to uid {me}")), "{said}");
}

#[test]
fn a_binary_of_another_user_is_refused() {
    let (_directory, path) = program();
    if std::os::unix::fs::chown(&path, Some(12_345), None).is_err() {
        return; // Only root can give files away.
    }
    let (rule, said) = refused(&path, &usual(), None);
    assert_eq!(rule, Rule::Owner);
    assert!(said.contains("uid 12345"), "{said}");
    admit(&path, &UpgradeRules { owner: Some(12_345), ..usual() }, None).unwrap();
}

/// Signs a file as `minisign -S` does.
fn sign(path: &Path, key: &minisign::KeyPair) {
    let signed = minisign::sign(None, &key.sk, File::open(path).unwrap(), None, None).unwrap();
    fs::write(signature::path_of(path), signed.into_string()).unwrap();
}

#[test]
fn a_signature_counts_if_it_is_of_these_bytes_and_by_the_configured_key() {
    let (_directory, path) = program();
    let key = minisign::KeyPair::generate_unencrypted_keypair().unwrap();
    let rules = UpgradeRules { public_key: Some(key.pk.to_base64()), ..usual() };
    let (rule, said) = refused(&path, &rules, None);
    assert_eq!(rule, Rule::Signature);
    assert!(said.contains("program.minisig cannot be read"), "{said}");
    sign(&path, &key);
    admit(&path, &rules, None).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
    assert!(refused(&path, &rules, None).1.contains("not the signature of these bytes"));
    sign(&path, &minisign::KeyPair::generate_unencrypted_keypair().unwrap());
    assert!(refused(&path, &rules, None).1.contains("another key"));
    fs::write(signature::path_of(&path), "nothing of the sort").unwrap();
    assert!(refused(&path, &rules, None).1.contains("is not a signature of minisign"));
    let rules = UpgradeRules { public_key: Some("nonsense".to_owned()), ..usual() };
    assert!(refused(&path, &rules, None).1.contains("public key is not one of minisign"));
}

#[test]
fn a_refusal_says_what_to_do_and_names_the_file() {
    let (_directory, path) = program();
    chmod(&path, 0o777);
    let problem = admit(&path, &usual(), None).unwrap_err().problem();
    assert_eq!(problem.file.as_deref(), path.to_str());
    assert_eq!(problem.help, Some(format!("'chmod go-w {}'", path.display())));
}

/// The path of the kept binary with this digest, if there is one.
fn kept(state: &Path, sha256: &str) -> Option<PathBuf> {
    Some(keeping::path_of(state, sha256)).filter(|path| path.is_file())
}

/// Waits until the file system's clock has gone on, so that what is kept next is newer than what was kept before.
fn tick(state: &Path) {
    let now = || {
        let scratch = tempfile::NamedTempFile::new_in(state).unwrap();
        let meta = scratch.as_file().metadata().unwrap();
        (meta.ctime(), meta.ctime_nsec())
    };
    let before = now();
    while now() == before {
        std::thread::yield_now();
    }
}

#[test]
fn the_last_two_binaries_are_kept_and_found_by_their_digest() {
    let state = tempfile::tempdir().unwrap();
    let mut digests = Vec::new();
    let mut keep_another = |tail: &str| {
        let (_directory, path) = program();
        OpenOptions::new().append(true).open(&path).unwrap().write_all(tail.as_bytes()).unwrap();
        let admitted = admit(&path, &usual(), None).unwrap();
        tick(state.path());
        keep(state.path(), &admitted.executable, &admitted.sha256).unwrap();
        admitted.sha256
    };
    digests.extend(["", "a", "b"].map(&mut keep_another));
    assert_eq!(kept(state.path(), &digests[0]), None);
    for digest in &digests[1..] {
        let path = kept(state.path(), digest).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(admit_kept(state.path(), digest).unwrap().sha256, *digest);
    }
    assert_eq!(fs::read_dir(state.path().join("binaries")).unwrap().count(), 2);
    // Once more: the older of the two is the newer one now, and the other one goes.
    let again = admit_kept(state.path(), &digests[1]).unwrap();
    tick(state.path());
    keep(state.path(), &again.executable, &digests[1]).unwrap();
    assert!(kept(state.path(), &digests[1]).is_some() && kept(state.path(), &digests[2]).is_some());
    digests.push(keep_another("c"));
    assert!(kept(state.path(), &digests[1]).is_some() && kept(state.path(), &digests[3]).is_some());
    assert_eq!(kept(state.path(), &digests[2]), None);
}

/// A rollback to the kept copy of the very binary that serves: it is kept once more while it is about to be run.
#[test]
fn to_keep_a_binary_once_more_does_not_write_to_its_copy() {
    let state = tempfile::tempdir().unwrap();
    let (_directory, path) = program();
    let serving = admit(&path, &usual(), None).unwrap();
    keep(state.path(), &serving.executable, &serving.sha256).unwrap();
    let candidate = admit_kept(state.path(), &serving.sha256).unwrap();
    tick(state.path());
    keep(state.path(), &serving.executable, &serving.sha256).unwrap();
    candidate.check_unchanged().unwrap();
}

#[test]
fn a_copy_that_was_changed_is_not_gone_back_to() {
    let state = tempfile::tempdir().unwrap();
    let (_directory, path) = program();
    let admitted = admit(&path, &usual(), None).unwrap();
    let copy = keep(state.path(), &admitted.executable, &admitted.sha256).unwrap();
    OpenOptions::new().append(true).open(&copy).unwrap().write_all(b"x").unwrap();
    let error = admit_kept(state.path(), &admitted.sha256).unwrap_err();
    assert!(matches!(error, NotAdmitted::Refused { rule: Rule::Sha256, .. }), "{error}");
    // The next time that it is kept, it is whole again.
    keep(state.path(), &admitted.executable, &admitted.sha256).unwrap();
    admit_kept(state.path(), &admitted.sha256).unwrap();
}

#[test]
fn a_binary_that_was_changed_since_it_was_started_is_not_kept() {
    let state = tempfile::tempdir().unwrap();
    let (_directory, path) = program();
    let admitted = admit(&path, &usual(), None).unwrap();
    OpenOptions::new().append(true).open(&path).unwrap().write_all(b"x").unwrap();
    assert!(admitted.check_unchanged().is_err());
    let error = keep(state.path(), &admitted.executable, &admitted.sha256).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert_eq!(fs::read_dir(state.path().join("binaries")).unwrap().count(), 0);
}

#[test]
fn where_this_program_was_started_from_leads_to_it() {
    let path = started_from().unwrap();
    assert!(path.is_absolute());
    let (there, running) = (fs::metadata(path).unwrap(), fs::metadata("/proc/self/exe").unwrap());
    assert_eq!((there.dev(), there.ino()), (running.dev(), running.ino()));
    assert_eq!(without_mark(Path::new("/a/b (deleted)")), Path::new("/a/b"));
    assert_eq!(without_mark(Path::new("/a/b")), Path::new("/a/b"));
}
