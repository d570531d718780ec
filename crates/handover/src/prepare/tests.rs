//! Where bytes come from, in each kind of prepare.

use super::*;

fn alone(base: &Path) -> Prepare {
    Prepare::stand_alone(1, false, base, |specs| specs.iter().map(|_| Ok(Bound::OnlyChecked)).collect())
}

#[test]
fn a_file_is_read_once_under_all_its_names() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), "first").unwrap();
    let mut prepare = alone(directory.path());
    assert_eq!(&*prepare.read(Path::new("a")).unwrap(), b"first");
    std::fs::write(directory.path().join("a"), "second").unwrap();
    assert_eq!(&*prepare.read(Path::new("./a")).unwrap(), b"first");
    assert_eq!(&*prepare.read(&directory.path().join("a")).unwrap(), b"first");
    assert_eq!(prepare.into_bundle().files().count(), 1);
}

#[test]
fn a_generation_that_is_served_again_reads_its_bundle_and_not_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a");
    std::fs::write(&path, "then").unwrap();
    let mut prepare = alone(directory.path());
    prepare.read_top(&path).unwrap();
    let bundle = prepare.into_bundle();
    std::fs::write(&path, "now").unwrap();
    std::fs::write(directory.path().join("new"), "new").unwrap();

    let origin = Origin { from: Some(Arc::new(bundle.clone())), ..Origin::default() };
    let base = directory.path().to_owned();
    let mut again = Prepare::new(2, false, base, origin, CalledOff::default(), Box::new(|_| None));
    assert_eq!(&*again.read_top(Path::new("a")).unwrap(), b"then");
    assert_eq!(again.read(Path::new("new")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(again.into_bundle(), bundle);
}

#[test]
fn nothing_is_read_or_bound_once_nobody_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("a"), "first").unwrap();
    let called_off = CalledOff::default();
    let binder = Box::new(|specs: &[ListenerSpec]| {
        Some(specs.iter().map(|_| Ok(Bound::OnlyChecked)).collect::<Vec<_>>())
    });
    let base = directory.path().to_owned();
    let mut prepare = Prepare::new(1, false, base, Origin::default(), called_off.clone(), binder);
    called_off.set();
    assert!(prepare.is_cancelled());
    assert!(prepare.read(Path::new("a")).is_err());
}
