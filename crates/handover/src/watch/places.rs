//! Which directories decide about what a path leads to: every one on its way, through every symbolic link.
//!
//! ```text
//!   /etc/site/tls.crt           /  etc ─▶ /etc  site ─▶ /etc/site  tls.crt → ..data/tls.crt
//!                                     ─▶ /etc/site  ..data → ..2026_11 ─▶ /etc/site  ..2026_11 ─▶ …/..2026_11  tls.crt
//! ```
//!
//! If something with one of these names comes, goes or is replaced in its directory, the path may lead elsewhere.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Links that are followed for one path, as many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Directories, none of them reached through a link, and the names in each that matter.
pub(super) type Places = BTreeMap<PathBuf, BTreeSet<OsString>>;

/// The places that decide about these paths, all of them absolute.
pub(super) fn of<'a>(paths: impl Iterator<Item = &'a Path>) -> Places {
    let mut places = Places::new();
    // Many files are in few directories: the way there is walked once.
    let mut known: HashMap<PathBuf, Option<PathBuf>> = HashMap::new();
    for path in paths {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let parent = match known.get(parent) {
            Some(real) => real.clone(),
            None => {
                let real = walk(Path::new("/"), parent, &mut places, MAX_LINKS);
                known.insert(parent.to_owned(), real.clone());
                real
            }
        };
        if let Some(parent) = parent {
            walk(&parent, Path::new(name), &mut places, MAX_LINKS);
        }
    }
    places
}

/// Walks from a directory along a path and notes what decides. Where it leads, without links; `None` if something on
/// the way is not there.
fn walk(from: &Path, path: &Path, places: &mut Places, mut links: usize) -> Option<PathBuf> {
    let mut here = from.to_owned();
    let mut ahead: VecDeque<Component<'_>> = path.components().collect();
    // Owned parts of links' targets, in front of what was ahead.
    let mut detour: VecDeque<OsString> = VecDeque::new();
    loop {
        let name = match detour.pop_front() {
            Some(part) => part,
            None => match ahead.pop_front() {
                Some(component) => component.as_os_str().to_owned(),
                None => return Some(here),
            },
        };
        match Path::new(&name).components().next() {
            Some(Component::RootDir) => here = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                here.pop();
            }
            Some(Component::Normal(_)) => {
                let next = here.join(&name);
                places.entry(here.clone()).or_default().insert(name);
                let metadata = fs::symlink_metadata(&next).ok()?;
                if metadata.is_symlink() {
                    links = links.checked_sub(1)?;
                    let target = fs::read_link(&next).ok()?;
                    for part in target.components().rev() {
                        detour.push_front(part.as_os_str().to_owned());
                    }
                } else {
                    here = next;
                }
            }
            Some(Component::CurDir | Component::Prefix(_)) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn names(places: &Places, directory: &Path) -> Vec<String> {
        let names = places.get(directory).into_iter().flatten();
        names.map(|name| name.to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn every_directory_on_the_way_and_every_link_counts() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("site/..2026_1")).unwrap();
        fs::write(root.join("site/..2026_1/tls.crt"), "").unwrap();
        symlink("..2026_1", root.join("site/..data")).unwrap();
        symlink("..data/tls.crt", root.join("site/tls.crt")).unwrap();
        symlink(root.join("site"), root.join("current")).unwrap();

        let places = of([root.join("current/tls.crt").as_path()].into_iter());
        assert_eq!(names(&places, &root), ["current", "site"]);
        assert_eq!(names(&places, &root.join("site")), ["..2026_1", "..data", "tls.crt"]);
        assert_eq!(names(&places, &root.join("site/..2026_1")), ["tls.crt"]);
        assert!(names(&places, Path::new("/")).len() == 1);
        assert_eq!(places.get(&root.join("current")), None, "no directory is watched through a link");
    }

    #[test]
    fn what_is_not_there_is_waited_for_where_it_would_come() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let places = of([root.join("a/b/c").as_path()].into_iter());
        assert_eq!(names(&places, &root), ["a"]);
        assert_eq!(places.get(&root.join("a")), None);
        symlink("nowhere", root.join("a")).unwrap();
        assert_eq!(names(&of([root.join("a/b").as_path()].into_iter()), &root), ["a", "nowhere"]);
    }

    #[test]
    fn links_that_lead_in_circles_end() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        symlink("b", root.join("a")).unwrap();
        symlink("a", root.join("b")).unwrap();
        assert_eq!(names(&of([root.join("a/x").as_path()].into_iter()), &root), ["a", "b"]);
    }

    #[test]
    fn parents_are_those_of_what_a_link_leads_to() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("far/deep")).unwrap();
        symlink("far/deep", root.join("near")).unwrap();
        let places = of([root.join("near/../file").as_path()].into_iter());
        assert_eq!(names(&places, &root.join("far")), ["deep", "file"]);
    }
}
