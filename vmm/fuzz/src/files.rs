//! Files: results, kernels, snapshots.

use std::fs::File;
use std::io::Write;

use ipirig_gate::Recorded;
use ipirig_image::{Image, OrcTable, Symbols};
use ipirig_machine::{Snapshot, check_kernel};
use tempfile::NamedTempFile;

/// A file with these bytes. Nothing can be fed where there is no room for it.
fn file(bytes: &[u8]) -> Option<NamedTempFile> {
    let mut file = NamedTempFile::new().ok()?;
    file.write_all(bytes).ok()?;
    Some(file)
}

pub(crate) fn results(bytes: &[u8]) {
    let Some(file) = file(bytes) else { return };
    if let Ok(runs) = Recorded::read(file.path()) {
        assert!(!runs.is_empty());
    }
}

pub(crate) fn kernel(bytes: &[u8]) {
    let Some(file) = file(bytes) else { return };
    let _ = check_kernel(file.path());
    let _ = Symbols::from_vmlinux(file.path());
    let _ = Symbols::from_system_map(file.path());
    let Ok(image) = Image::open(file.path()) else {
        return;
    };
    let _ = OrcTable::read(&image);
    for range in image.notes() {
        let bytes = image.bytes(range);
        assert!(
            bytes.is_err()
                || bytes.is_ok_and(|bytes| bytes.is_none_or(|bytes| bytes.len() <= 1 << 20))
        );
    }
}

pub(crate) fn snapshot(bytes: &[u8]) {
    let Some(file) = file(bytes) else { return };
    let Ok(file) = File::open(file.path()) else {
        return;
    };
    // None of these has the hashes that it would need.
    assert!(Snapshot::open(&file, "k").is_err());
}
