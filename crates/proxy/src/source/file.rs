//! A configuration in a file, read through the prepare so that its bytes belong to the generation.

use std::path::Path;

use handover::{Prepare, Problem};

use super::Text;

/// Reads the file; relative paths in it are relative to its directory.
pub(super) fn read(cx: &mut Prepare, path: &Path) -> Result<Text, Vec<Problem>> {
    let name = path.display().to_string();
    let bytes = cx.read_top(path);
    if let Some(directory) = path.parent() {
        cx.set_base(directory);
    }
    match bytes {
        Ok(bytes) => Ok(Text { name, bytes, warnings: Vec::new() }),
        Err(error) => Err(vec![Problem::new(format!("cannot be read: {error}")).in_file(name)]),
    }
}
