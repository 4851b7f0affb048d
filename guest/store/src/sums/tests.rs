use std::os::unix::fs::symlink;
use std::process::Command;

use super::*;
use crate::Distrust;

/// A sealed slot with two files, one of them deeper, and a link from one to the other.
fn slot() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("tree")).expect("made");
    fs::write(dir.path().join("vmlinux"), "kernel").expect("written");
    fs::write(dir.path().join("tree/a.h"), "header").expect("written");
    symlink("../vmlinux", dir.path().join("tree/link")).expect("linked");
    Sums::seal(dir.path()).expect("sealed");
    dir
}

fn check(dir: &tempfile::TempDir) -> Found {
    let trust = Trust::here();
    Sums::check(dir.path(), &["vmlinux", "tree/a.h"], &trust).expect("looked at")
}

fn check_all(dir: &tempfile::TempDir) -> Found {
    Sums::check_all(dir.path(), &Trust::here()).expect("looked at")
}

fn other(what: &str) -> Found {
    Found::Other(what.to_owned())
}

#[test]
fn a_sealed_slot_is_what_was_built_and_sha256sum_agrees() {
    let dir = slot();
    assert_eq!((check(&dir), check_all(&dir)), (Found::Built, Found::Built));
    let status = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", SUMS])
        .current_dir(dir.path())
        .status()
        .expect("coreutils are there");
    assert!(status.success());
}

#[test]
fn a_file_that_is_changed_missing_or_new_is_named() {
    let dir = slot();
    let path = |name: &str| dir.path().join(name);
    // As long as it was.
    fs::write(path("tree/a.h"), "hEader").expect("written");
    assert_eq!(check(&dir), other("tree/a.h is not what was built"));
    fs::remove_file(path("tree/a.h")).expect("removed");
    assert_eq!(check(&dir), other("tree/a.h is missing"));
    assert_eq!(check_all(&dir), other("a file is missing"));
    fs::write(path("tree/a.h"), "header").expect("written");
    assert_eq!(check_all(&dir), Found::Built);
    fs::write(path("tree/b.h"), "").expect("written");
    assert_eq!(check(&dir), Found::Built);
    assert_eq!(check_all(&dir), other("tree/b.h was put there"));
}

#[test]
fn a_file_that_cannot_be_opened_is_not_one_that_is_missing() {
    let dir = slot();
    let list = dir.path().join(SUMS);
    let line = format!("{}  vmlinux/x\n", "0".repeat(DIGITS));
    fs::write(&list, line).expect("written");
    // ENOTDIR.
    let looked = Sums::check(dir.path(), &["vmlinux/x"], &Trust::here());
    assert!(matches!(looked, Err(StoreError::Io { .. })), "{looked:?}");
}

#[test]
fn a_list_that_is_missing_or_cut_short_or_names_other_places_is_none() {
    let dir = slot();
    let list = dir.path().join(SUMS);
    let whole = fs::read_to_string(&list).expect("readable");
    for end in [0, 1, 70, whole.len() - 1] {
        fs::write(&list, whole.get(..end).unwrap_or_default()).expect("written");
        assert_eq!(check(&dir), other("SHA256SUMS is damaged"), "{end}");
    }
    fs::write(&list, [0xff; 100]).expect("written");
    assert_eq!(check(&dir), other("SHA256SUMS is damaged"));
    let hash = "0".repeat(DIGITS);
    for path in ["/etc/passwd", "../x", ""] {
        assert_eq!(Sums::parse(&format!("{hash}  {path}\n")), None, "{path}");
    }
    for hash in ["0".repeat(DIGITS - 1), "g".repeat(DIGITS)] {
        assert_eq!(Sums::parse(&format!("{hash}  vmlinux\n")), None, "{hash}");
    }
    fs::remove_file(&list).expect("removed");
    assert_eq!(check(&dir), other("SHA256SUMS is missing"));
    assert_eq!(check_all(&dir), other("SHA256SUMS is missing"));
}

#[test]
fn what_is_sealed_may_be_written_to_by_its_owner_only() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("vmlinux");
    fs::write(&path, "kernel").expect("written");
    fs::set_permissions(&path, Permissions::from_mode(0o775)).expect("set");
    Sums::seal(dir.path()).expect("sealed");
    let mode = fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o755);
}

#[test]
fn links_pipes_and_what_others_may_write_to_are_not_believed() {
    let trust = Trust::here();
    let refused = |change: &dyn Fn(&Path)| {
        let dir = slot();
        change(&dir.path().join("vmlinux"));
        match Sums::check(dir.path(), &["vmlinux"], &trust) {
            Err(StoreError::NotTrusted { source, .. }) => Some(source),
            _ => None,
        }
    };
    let replace = |by: &dyn Fn(&Path)| {
        refused(&|path| {
            fs::remove_file(path).expect("removed");
            by(path);
        })
    };
    let pipe = |path: &Path| {
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, path, mode).expect("made");
    };
    let link = |path: &Path| symlink("tree/a.h", path).expect("linked");
    let open = |path: &Path| {
        fs::set_permissions(path, Permissions::from_mode(0o666)).expect("set");
    };
    assert_eq!(replace(&pipe), Some(Distrust::NotAFile));
    assert_eq!(replace(&link), Some(Distrust::NotAFile));
    assert_eq!(refused(&open), Some(Distrust::Writable(0o666)));
}

#[test]
fn a_link_may_not_lead_out_of_a_slot() {
    for (target, expected) in [
        ("a.h", Found::Built),
        ("../tree/./a.h", Found::Built),
        ("./a.h", Found::Built),
        ("/etc/passwd", other("tree/link leads out of it")),
        ("../../x", other("tree/link leads out of it")),
    ] {
        let dir = slot();
        let link = dir.path().join("tree/link");
        fs::remove_file(&link).expect("removed");
        symlink(target, &link).expect("linked");
        assert_eq!(check_all(&dir), expected, "{target}");
    }
}
