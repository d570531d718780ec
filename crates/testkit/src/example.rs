//! The programs in `examples/`, built for a test that runs them.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// Set where all examples were just built: by `cargo test --workspace`, in `scripts/test`.
const BUILT: &str = "HANDOVER_EXAMPLES_BUILT";

/// Those that this process has built, or found up to date.
static FOUND: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The path of an example's executable, which is built if need be. `binary` is the program under test: the example
/// lies in the same target directory, built with the same profile.
#[must_use]
pub fn example(binary: &str, name: &str) -> PathBuf {
    example_of("handover", binary, name)
}

/// The same for an example of another package.
pub(crate) fn example_of(package: &str, binary: &str, name: &str) -> PathBuf {
    let profile = Path::new(binary).parent().expect("directory of the binary");
    let path = profile.join("examples").join(name);
    let mut built = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if built.contains(&path) || std::env::var_os(BUILT).is_some() && path.exists() {
        return path;
    }
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--package", package, "--example", name]);
    match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => drop(cargo.args(["--profile", profile])),
    }
    cargo.arg("--target-dir").arg(profile.parent().expect("target directory"));
    // The tests of the workspace run in the directory of their package.
    let output = cargo.output().expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    built.insert(path.clone());
    path
}
