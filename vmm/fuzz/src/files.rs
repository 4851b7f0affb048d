//! Files: results, kernels, initramfs, snapshots.

use std::fs::File;
use std::io::Write;

use ipirig_gate::Recorded;
use ipirig_image::{Image, OrcTable, Symbols};
use ipirig_machine::{Snapshot, check_initramfs, check_kernel};
use serde_json::Value;
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

pub(crate) fn initramfs(bytes: &[u8]) {
    let Some(file) = file(bytes) else { return };
    // The kernel is what unpacks it.
    let known = [
        &b"07070"[..],
        b"\x1f",
        b"BZ",
        b"\x5d",
        b"\xfd",
        b"\x89",
        b"\x02",
        b"(",
    ];
    let begins = known.iter().any(|magic| bytes.starts_with(magic));
    assert!(check_initramfs(file.path()).is_err() || begins);
}

/// Bytes of a page of a snapshot's file.
const PAGE: usize = 4096;
/// Pages before its index: state, mailbox, memory.
const PAGES: [u8; 4] = [b' ', 0, 1, 2];

/// What is before the index, but for the header: each page is of one byte.
fn pages() -> Vec<Vec<u8>> {
    PAGES.iter().map(|byte| vec![*byte; PAGE]).collect()
}

/// A good index of these pages: one of state, one of mailbox, two of memory.
pub(crate) fn index() -> String {
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_string();
    let pages = pages();
    let [state, mailbox, first, second] = pages.as_slice() else {
        return String::new();
    };
    let memory = [first.as_slice(), second].concat();
    format!(
        "{{\"key\":\"k\",\
         \"state\":{{\"offset\":4096,\"bytes\":4096,\"hash\":\"{}\"}},\
         \"mailbox\":{{\"offset\":8192,\"bytes\":4096,\"hash\":\"{}\"}},\
         \"memory_bytes\":409600,\
         \"memory\":[{{\"at\":4096,\"bytes\":4096,\"offset\":12288}},\
         {{\"at\":401408,\"bytes\":4096,\"offset\":16384}}],\
         \"memory_hash\":\"{}\"}}",
        hash(state),
        hash(mailbox),
        hash(&memory)
    )
}

/// A snapshot whose header has the right hash of the index, which are the bytes: only what the index says can be wrong.
/// Whatever it says, what is opened has the memory, and each part where it was written.
pub(crate) fn snapshot_index(bytes: &[u8]) {
    let mut image = b"ipirig snapshot\x02".to_vec();
    let at = (PAGES.len() + 1) * PAGE;
    image.extend((at as u64).to_le_bytes());
    image.extend((bytes.len() as u64).to_le_bytes());
    image.extend(blake3::hash(bytes).as_bytes());
    image.resize(PAGE, 0);
    image.extend(pages().concat());
    image.extend(bytes);
    let Some(file) = file(&image) else { return };
    let Ok(file) = File::open(file.path()) else {
        return;
    };
    let opened = Snapshot::open(&file, "k");
    if opened.is_ok() {
        let parsed = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap_or_default();
        let (good, index) = (parsed(index().as_bytes()), parsed(bytes));
        for part in ["state", "mailbox", "memory_hash"] {
            assert_eq!(index[part], good[part]);
        }
        // In as many parts as it likes, wherever they are in the guest's memory: no hash says that.
        let parts = index["memory"].as_array().into_iter().flatten();
        let size: u64 = parts.filter_map(|part| part["bytes"].as_u64()).sum();
        assert_eq!(2 * PAGE as u64, size);
    }
    if bytes == self::index().as_bytes() {
        assert!(opened.is_ok(), "{opened:?}");
    }
}
