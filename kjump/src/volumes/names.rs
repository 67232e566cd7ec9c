//! Names of block devices.

use std::fs;
use std::path::Path;

/// The name that the kernel has for the block device at `path`, which may be a link.
pub(super) fn name_of(root: &Path, path: &str) -> Option<String> {
    let inside = root.join(path.trim_start_matches('/'));
    let path = inside.canonicalize().unwrap_or(inside);
    let dev = root.join("dev");
    let dev = dev.canonicalize().unwrap_or(dev);
    let name = path.strip_prefix(dev).ok()?.to_string_lossy();
    Some(name.replace('/', "!"))
}

/// The path of the block device that the kernel has this name for. Where the path has a slash, sysfs has
/// an exclamation mark.
pub(super) fn device_of(name: &str) -> String {
    format!("/dev/{}", name.replace('!', "/"))
}

/// The names in a folder, in order; none if it is not there.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
