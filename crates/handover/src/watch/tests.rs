//! The watch on real files: what people and tools do to them, and what is asked for.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};

use handover_handoff::Bundle;
use tempfile::TempDir;

use super::*;
use crate::files;

/// No wait of these tests is longer; none is expected to come near it.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory with files that are watched, and a stand-in for who reloads.
struct Site {
    directory: TempDir,
    files: Vec<PathBuf>,
    watcher: Watcher,
    asks: Receiver<String>,
}

impl Site {
    /// Prepares a directory and serves these files of it.
    fn new(names: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        Self::with(names, Duration::from_secs(3_600), prepare)
    }

    fn with(names: &[&str], retry: Duration, prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let (asked, asks) = mpsc::channel();
        let watcher = Watcher::start(move |why| drop(asked.send(why))).unwrap();
        let files = names.iter().map(|name| directory.path().join(name)).collect();
        let site = Self { directory, files, watcher, asks };
        site.look();
        site.serve(retry);
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Another file, renamed over the old one.
    fn replace(&self, name: &str, text: &str) {
        self.write("incoming", text);
        fs::rename(self.path("incoming"), self.path(name)).unwrap();
    }

    fn link(&self, name: &str, to: &str) {
        symlink(to, self.path("incoming")).unwrap();
        fs::rename(self.path("incoming"), self.path(name)).unwrap();
    }

    /// Reads the files, as a prepare does, and returns what was read.
    fn look(&self) -> Vec<Option<String>> {
        let (read, seen): (Vec<_>, Vec<_>) = self.files.iter().map(|path| files::look(path)).unzip();
        self.watcher.tried(Arc::new(seen));
        let text = |bytes: Arc<[u8]>| String::from_utf8(bytes.to_vec()).unwrap();
        read.into_iter().map(|bytes| bytes.ok().map(text)).collect()
    }

    fn serve(&self, retry: Duration) {
        let mut bundle = Bundle::new();
        for path in &self.files {
            bundle.insert(path, Arc::from(&b""[..])).unwrap();
        }
        let watch = Watch { settle: Duration::from_millis(10), retry, source: None };
        self.watcher.serving(watch, Arc::new(bundle), Came::Read);
    }

    /// Waits until a reload is asked for.
    fn asks(&self) -> String {
        self.asks.recv_timeout(PATIENCE).expect("a reload is asked for")
    }

    /// Waits until a reload is asked for, reloads, and returns what was read.
    fn reloads(&self) -> Vec<Option<String>> {
        self.asks();
        let read = self.look();
        self.serve(Duration::from_secs(3_600));
        self.watcher.asked(true, "applied");
        read
    }

    /// That nothing was asked for before this change of a watched file.
    fn asks_only_about(&self, name: &str, text: &str) {
        self.replace(name, text);
        assert_eq!(self.asks(), format!("{} changed", self.path(name).display()));
        assert!(self.asks.try_recv().is_err());
    }
}

fn some(texts: &[&str]) -> Vec<Option<String>> {
    texts.iter().map(|text| Some((*text).to_owned())).collect()
}

#[test]
fn a_data_link_is_followed_at_its_first_second_and_third_swap() {
    let site = Site::new(&["tls.crt", "tls.key"], |root| {
        fs::create_dir(root.join("..1")).unwrap();
        for name in ["tls.crt", "tls.key"] {
            fs::write(root.join("..1").join(name), "1").unwrap();
            symlink(format!("..data/{name}"), root.join(name)).unwrap();
        }
        symlink("..1", root.join("..data")).unwrap();
    });
    for swap in ["2", "3", "4"] {
        let directory = site.path(&format!("..{swap}"));
        fs::create_dir(&directory).unwrap();
        for name in ["tls.crt", "tls.key"] {
            fs::write(directory.join(name), swap).unwrap();
        }
        let before = fs::read_link(site.path("..data")).unwrap();
        site.link("..data", &format!("..{swap}"));
        fs::remove_dir_all(site.directory.path().join(before)).unwrap();
        assert_eq!(site.reloads(), some(&[swap, swap]));
    }
}

#[test]
fn files_that_are_renamed_written_in_place_or_replaced_by_links_are_seen() {
    let site = Site::new(&["a"], |root| fs::write(root.join("a"), "0").unwrap());
    site.replace("a", "renamed");
    assert_eq!(site.reloads(), some(&["renamed"]));
    site.write("a", "written");
    assert_eq!(site.reloads(), some(&["written"]));
    // As editors do that keep a backup.
    fs::rename(site.path("a"), site.path("a~")).unwrap();
    site.write("a", "edited");
    assert_eq!(site.reloads(), some(&["edited"]));
    site.write("b", "linked");
    site.link("a", "b");
    assert_eq!(site.reloads(), some(&["linked"]));
    // The link stays, and what it leads to changes.
    site.replace("b", "linked and changed");
    assert_eq!(site.reloads(), some(&["linked and changed"]));
    fs::remove_file(site.path("a")).unwrap();
    assert_eq!(site.reloads(), [None]);
    site.write("a", "back");
    assert_eq!(site.reloads(), some(&["back"]));
}

#[test]
fn a_directory_that_vanishes_and_comes_back_is_watched_again() {
    let site = Site::new(&["far/deep/a"], |root| {
        fs::create_dir_all(root.join("far/deep")).unwrap();
        fs::write(root.join("far/deep/a"), "0").unwrap();
    });
    for round in 0..3 {
        fs::remove_dir_all(site.path("far")).unwrap();
        assert_eq!(site.reloads(), [None]);
        fs::create_dir_all(site.path("far/deep")).unwrap();
        let text = format!("round {round}");
        site.write("far/deep/a", &text);
        assert_eq!(site.reloads(), some(&[&text]));
        site.replace("far/deep/a", "again");
        assert_eq!(site.reloads(), some(&["again"]));
        // Another directory in its place.
        fs::create_dir_all(site.path("other/deep")).unwrap();
        site.write("other/deep/a", "other");
        fs::rename(site.path("far"), site.path(&format!("old{round}"))).unwrap();
        fs::rename(site.path("other"), site.path("far")).unwrap();
        assert_eq!(site.reloads(), some(&["other"]));
    }
}

#[test]
fn what_others_write_in_the_same_directory_is_not_asked_about() {
    let site = Site::new(&["a"], |root| fs::write(root.join("a"), "0").unwrap());
    let mut log = fs::File::create(site.path("log")).unwrap();
    for line in 0..1_000 {
        writeln!(log, "{line}").unwrap();
        site.write("journal", "x");
        fs::read(site.path("a")).unwrap();
    }
    // Neither is a file that is put in place anew with what it said before.
    site.replace("a", "0");
    site.asks_only_about("a", "1");
}

#[test]
fn several_files_that_change_in_a_row_are_one_question() {
    let names: Vec<String> = (0..50).map(|number| format!("file{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let site = Site::new(&names, |root| {
        for name in &names {
            fs::write(root.join(name), "0").unwrap();
        }
    });
    for name in &names {
        site.replace(name, "1");
    }
    let mut read = site.reloads();
    // If this machine was so slow that the set was still in between, the rest is asked about afterwards.
    while read.contains(&Some("0".to_owned())) {
        read = site.reloads();
    }
    site.asks_only_about("file7", "2");
}

#[test]
fn a_set_that_does_not_fit_together_is_tried_again_and_what_it_lacks_is_watched() {
    let mut site =
        Site::with(&["a"], Duration::from_millis(20), |root| fs::write(root.join("a"), "0").unwrap());
    site.replace("a", "names b");
    site.asks();
    // The new configuration names a file that is not there: the attempt has looked for it in vain.
    site.files.push(site.path("sub/b"));
    assert_eq!(site.look(), [Some("names b".to_owned()), None]);
    site.watcher.asked(false, "rejected: b is missing");
    assert_eq!(site.asks(), "tried again");
    site.watcher.asked(false, "rejected: b is missing");
    assert_eq!(site.asks(), "tried again");
    fs::create_dir(site.path("sub")).unwrap();
    site.write("sub/b", "1");
    site.watcher.asked(false, "rejected: b is missing");
    let mut why = site.asks();
    while why == "tried again" {
        site.watcher.asked(false, "rejected: b is missing");
        why = site.asks();
    }
    assert_eq!(why, format!("{} changed", site.path("sub/b").display()));
}

#[test]
fn a_file_that_changes_while_it_is_read_leads_to_another_question() {
    let site = Site::new(&["a"], |root| fs::write(root.join("a"), "0").unwrap());
    site.replace("a", "1");
    site.asks();
    let (_, seen) = files::look(&site.path("a"));
    site.replace("a", "2");
    site.watcher.tried(Arc::new(vec![seen]));
    site.serve(Duration::from_secs(3_600));
    site.watcher.asked(true, "applied");
    assert_eq!(site.reloads(), some(&["2"]));
}

#[test]
fn a_watch_that_is_dropped_ends_its_thread() {
    let site = Site::new(&["a"], |root| fs::write(root.join("a"), "0").unwrap());
    let Site { watcher, asks, .. } = site;
    drop(watcher);
    // The thread holds the other end.
    assert_eq!(asks.recv_timeout(PATIENCE), Err(mpsc::RecvTimeoutError::Disconnected));
}

/// A source that is steered: each word is what its next wait comes to.
struct Steered {
    words: Mutex<Receiver<Result<Option<String>, String>>>,
    waits: Mutex<Sender<()>>,
}

impl Source for Steered {
    fn name(&self) -> String {
        "a steered source".to_owned()
    }

    fn wait(&self) -> Result<Option<String>, String> {
        let _ = self.waits.lock().unwrap().send(());
        self.words.lock().unwrap().recv().unwrap_or(Ok(None))
    }
}

#[test]
fn a_source_is_asked_about_once_until_it_was_read() {
    let site = Site::new(&["a"], |root| fs::write(root.join("a"), "0").unwrap());
    let (say, words) = mpsc::channel();
    let (waited, waits) = mpsc::channel();
    let source = Arc::new(Steered { words: Mutex::new(words), waits: Mutex::new(waited) });
    let watch = Watch { settle: Duration::from_millis(10), retry: PATIENCE, source: Some(source) };
    let mut bundle = Bundle::new();
    bundle.insert(&site.path("a"), Arc::from(&b""[..])).unwrap();
    site.watcher.serving(watch, Arc::new(bundle), Came::Read);
    say.send(Ok(None)).unwrap();
    say.send(Err("connection refused".to_owned())).unwrap();
    say.send(Ok(Some("revision 7".to_owned()))).unwrap();
    assert_eq!(site.asks(), "revision 7");
    for _ in 0..3 {
        waits.recv_timeout(PATIENCE).unwrap();
    }
    assert!(waits.try_recv().is_err(), "it is not waited for before it was read");
    site.look();
    site.watcher.asked(true, "applied");
    say.send(Ok(Some("revision 8".to_owned()))).unwrap();
    assert_eq!(site.asks(), "revision 8");
    drop(say);
}
