//! Files that say which build they are, in one way or another.

use std::fs;

use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::testing::{TEXT, vmlinux};

const ID: [u8; 20] = [0xab; 20];
const BY: &str = "(me@here)";

fn note(name: &[u8], kind: u32, content: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    for word in [name.len() as u32, content.len() as u32, kind] {
        note.extend(word.to_le_bytes());
    }
    for part in [name, content] {
        note.extend(part);
        note.resize(note.len().next_multiple_of(4), 0);
    }
    note
}

/// Notes as a kernel has them: Xen's come first.
fn notes(id: &[u8]) -> Vec<u8> {
    [note(b"Xen\0", 6, b"linux"), note(b"GNU\0", 3, id)].concat()
}

fn kernel(release: &str, version: &str, id: Option<&[u8]>) -> Vec<u8> {
    let banner = format!("Linux version {release} {BY} (gcc #2) {version}\n\0");
    with_notes(&banner, id, &[("linux_banner", TEXT)])
}

fn with_notes(text: &str, id: Option<&[u8]>, symbols: &[(&str, u64)]) -> Vec<u8> {
    let notes = id.map(notes).unwrap_or_default();
    let mut file = vmlinux(text.as_bytes(), &notes, symbols);
    // As the linker has notes: SHT_NOTE, in the third of six section headers.
    let kind = file.len() - 4 * 64 + 4;
    file[kind] = 7;
    file
}

fn bzimage(release: &str, version: &str) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    file[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
    file[VERSION..VERSION + 2].copy_from_slice(&0x200_u16.to_le_bytes());
    file.extend(format!("{release} {BY} {version}\0code").bytes());
    file
}

fn matching(vmlinux: &[u8], kernel: &[u8]) -> Result<Build, String> {
    let dir = TempDir::new().unwrap();
    let [one, other] = ["v", "k"].map(|name| dir.path().join(name));
    fs::write(&one, vmlinux).unwrap();
    fs::write(&other, kernel).unwrap();
    Build::matching(&one, &other).map_err(|error| {
        let text = error.to_string();
        let text = text.replace(&format!("{}/", dir.path().display()), "");
        text.replace(&format!("; {FROM}"), "")
    })
}

#[test]
fn a_vmlinux_matches_the_bzimage_of_its_build() {
    let build = Build {
        id: Some(BuildId(ID.into())),
        version: Some(Version {
            release: "6.12.1".into(),
            built: "#7 SMP Mon".into(),
        }),
    };
    let vmlinux = kernel("6.12.1", "#7 SMP Mon", Some(&ID));
    assert_eq!(
        matching(&vmlinux, &bzimage("6.12.1", "#7 SMP Mon")),
        Ok(build.clone())
    );
    // A stripped copy of it says so by its notes alone.
    assert_eq!(
        matching(&vmlinux, &with_notes("code", Some(&ID), &[])),
        Ok(build.clone())
    );
    // Without notes by the banner, which is where it was.
    let banner = format!("Linux version 6.12.1 {BY} (gcc) #7 SMP Mon\n");
    assert_eq!(
        matching(&vmlinux, &with_notes(&banner, None, &[])),
        Ok(build)
    );
}

#[test]
fn a_vmlinux_of_another_build_is_told_with_what_differs() {
    let vmlinux = kernel("6.12.1", "#7 SMP Mon", Some(&ID));
    let cases = [
        (
            bzimage("6.12.2", "#7 SMP Mon"),
            "v is not the vmlinux of k: it is of Linux 6.12.1, the kernel is 6.12.2",
        ),
        (
            bzimage("6.12.1", "#8 SMP Tue"),
            "v is not the vmlinux of k: it is build `#7 SMP Mon`, the kernel is `#8 SMP Tue`",
        ),
        (
            kernel("6.12.1", "#7 SMP Mon", Some(&[1, 2])),
            "v is not the vmlinux of k: its build id is \
             abababababababababababababababababababab, the kernel's 0102",
        ),
        (
            with_notes("code", None, &[]),
            "k does not say which build of a kernel it is: it has neither a build id nor \
             linux_banner",
        ),
        (
            b"MZ".to_vec(),
            "k is not a 64-bit x86 ELF file and has no symbols; give the vmlinux or System.map",
        ),
    ];
    for (kernel, expected) in cases {
        assert_eq!(matching(&vmlinux, &kernel), Err(expected.to_owned()));
    }
    let stripped = crate::testing::vmlinux(b"code", b"", &[]);
    let error = matching(&stripped, &bzimage("6.12.1", "#7")).unwrap_err();
    assert_eq!(
        error,
        "v does not say which build of a kernel it is: it has no symbols"
    );
}

#[test]
fn a_build_id_is_found_among_other_notes_or_not_at_all() {
    assert_eq!(build_id(&notes(&ID)), Some(BuildId(ID.into())));
    assert_eq!(build_id(&note(b"Xen\0", 3, &ID)), None);
    assert_eq!(build_id(&note(b"GNU\0", 3, &[])), None);
    assert_eq!(build_id(&note(b"GNU\0", 3, &[1; 65])), None);
    assert_eq!(build_id(&[]), None);
    assert_eq!(build_id(&[0xff; 64]), None);
}

proptest! {
    #[test]
    fn no_file_makes_finding_its_build_panic(noise in vec(any::<u8>(), 0..0x500)) {
        let mut file = bzimage("6.12.1", "#7");
        let _ = build_id(&noise);
        for (byte, noise) in file.iter_mut().zip(&noise) {
            if *noise < 128 {
                *byte = *noise;
            }
        }
        let _ = version_of(&file).and_then(stated);
    }
}
