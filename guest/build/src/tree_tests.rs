//! Kernels with extra patches, from end to end, on a kernel of a few lines.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use crate::fake::{Fake, RecordedProgress, patch};
use crate::{ErrorClass, GuestError};

const KCONFIG: &str = "--- /dev/null\n+++ b/mm/Kconfig\n@@ -0,0 +1 @@\n+config X\n";

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("readable")
}

/// Builds the kernel with one more patch, which has `last` as the last line of `main.sh`.
fn build(fake: &mut Fake, name: &str, last: &str) -> (Result<String, GuestError>, Vec<String>) {
    let file = fake.write_extra(&format!("{name}.patch"), &patch(":", last));
    fake.request.extra_patches = vec![file];
    let heard = RecordedProgress::default();
    let built = fake.build_with(&heard);
    (built.map(|kernel| read(&kernel.vmlinux())), heard.lines())
}

fn main_with(last: &str) -> String {
    format!("# one\n# two\n# three\n# four\n# five\n{last}\n")
}

/// The only kept tree.
fn tree(fake: &Fake) -> PathBuf {
    let [name] = &fake.list("tree")[..] else {
        panic!("{:?}", fake.list("tree"))
    };
    fake.places.cache.join("tree").join(name)
}

fn stages(name: &str) -> [String; 5] {
    [
        format!("patching linux 6.12.0-1 with {name}"),
        "0 of Some(1)".to_owned(),
        "1 of Some(1)".to_owned(),
        format!("building linux 6.12.0-1 with {name}"),
        "1 of None".to_owned(),
    ]
}

#[test]
fn only_the_first_kernel_with_extra_patches_is_built_from_nothing() {
    let mut fake = Fake::new();
    let (built, heard) = build(&mut fake, "a", ": a");
    assert_eq!(built.expect("built"), main_with(": a"));
    assert_eq!(heard[0], "unpacking linux 6.12.0-1");
    assert!(
        heard.windows(5).any(|part| part == stages("a")),
        "{heard:?}"
    );

    let (built, heard) = build(&mut fake, "b", ": b");
    assert_eq!(built.expect("built"), main_with(": b"));
    assert_eq!(heard[..5], stages("b"));
    assert_eq!(read(&tree(&fake).join("linux/main.sh")), main_with(":"));
    assert_eq!(fake.list("kernel").len(), 2);
}

#[test]
fn kernel_slot_is_as_whole_as_one_built_from_nothing() {
    let mut fake = Fake::new();
    let (built, _) = build(&mut fake, "a", ": a");
    built.expect("built");
    let kept = fake.build().expect("found");
    assert!(!kept.fresh);
    // The same patches, and one that has to be built from nothing.
    fake.request
        .extra_patches
        .push(fake.write_extra("k.patch", KCONFIG));
    let scratch = fake.build().expect("built");
    assert!(scratch.fresh);
    for file in ["vmlinux", "System.map", "config", "tree/Module.symvers"] {
        let of = |vmlinux: PathBuf| read(&vmlinux.with_file_name("").join(file));
        assert_eq!(of(kept.vmlinux()), of(scratch.vmlinux()), "{file}");
    }
    assert_eq!(kept.manifest.release, scratch.manifest.release);
    assert_eq!(kept.manifest.compiler, scratch.manifest.compiler);
    assert_ne!(kept.manifest.series, scratch.manifest.series);
}

#[test]
fn patch_of_the_configuration_is_built_from_nothing_and_keeps_no_tree() {
    let mut fake = Fake::new();
    fake.request.extra_patches = vec![fake.write_extra("k.patch", KCONFIG)];
    fake.request.keep_tree = true;
    fake.build().expect("built");
    assert_eq!(fake.list("tree"), Vec::<String>::new());
}

#[test]
fn tree_is_kept_for_the_plain_kernel_when_asked_for() {
    let fake = Fake::new();
    let plain = read(&fake.build().expect("built").vmlinux());
    assert_eq!(fake.list("tree"), Vec::<String>::new());

    let mut fake = Fake::new();
    fake.request.keep_tree = true;
    let kernel = fake.build().expect("built");
    assert_eq!(read(&kernel.vmlinux()), plain);
    assert!(tree(&fake).join("whole").exists());
    let (built, heard) = build(&mut fake, "a", ": a");
    assert_eq!(built.expect("built"), main_with(": a"));
    assert_eq!(heard[..5], stages("a"));

    // And the other way round: after a mutant, the tree still makes the plain kernel.
    fake.request.extra_patches.clear();
    fs::remove_file(kernel.vmlinux()).expect("there");
    assert_eq!(read(&fake.build().expect("built").vmlinux()), plain);
}

#[test]
fn patch_that_does_not_apply_leaves_the_tree_clean() {
    let mut fake = Fake::new();
    let (built, _) = build(&mut fake, "a", ": a");
    built.expect("built");
    // Its first file is created and its second hunk has no place.
    let text = "--- /dev/null\n+++ b/new/file.c\n@@ -0,0 +1 @@\n+new\n".to_owned();
    let text = text + &patch("true", ": b");
    fake.request.extra_patches = vec![fake.write_extra("b.patch", &text)];
    let error = fake.build().expect_err("refused");
    assert!(matches!(error, GuestError::Patch(_)), "{error:?}");

    let tree = tree(&fake);
    let mut names: Vec<_> = fs::read_dir(tree.join("linux"))
        .expect("listed")
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    let expected = [
        "Makefile",
        "Module.symvers",
        "System.map",
        "include",
        "main.sh",
        "scripts",
        "vmlinux",
    ];
    assert_eq!(names, expected);
    assert!(!tree.join("journal.json").exists());
    let (built, _) = build(&mut fake, "c", ": c");
    assert_eq!(built.expect("built"), main_with(": c"));
}

#[test]
fn failed_build_is_not_in_the_next_kernel() {
    let mut fake = Fake::new();
    let (built, _) = build(&mut fake, "a", "echo half > vmlinux; exit 1");
    assert_eq!(built.expect_err("fails").class(), ErrorClass::Build);
    assert_eq!(read(&tree(&fake).join("linux/main.sh")), main_with(":"));
    let (built, heard) = build(&mut fake, "b", ": b");
    assert_eq!(built.expect("built"), main_with(": b"));
    assert_eq!(heard[..5], stages("b"));
}

#[test]
fn tree_that_a_killed_build_left_is_repaired_at_the_next_use() {
    let mut fake = Fake::new();
    let (built, _) = build(&mut fake, "a", ": a");
    built.expect("built");
    let tree = tree(&fake);
    // In the middle of the build, a picture of everything is taken. The tree is made to look so
    // again, with a result of the build on top.
    let picture = fake.places.cache.join("picture");
    let script = format!("cp -a .. {}", picture.display());
    let (built, _) = build(&mut fake, "killed", &script);
    built.expect("built");
    fs::remove_dir_all(&tree).expect("removed");
    fs::rename(&picture, &tree).expect("renamed");
    fs::write(tree.join("linux/vmlinux"), "of the killed build").expect("written");
    assert_eq!(read(&tree.join("linux/main.sh")), main_with(&script));
    assert!(tree.join("journal.json").exists());

    fake.request.extra_patches.clear();
    fake.request.keep_tree = true;
    let plain = fake.build().expect("built");
    assert_eq!(read(&plain.vmlinux()), main_with(":"));
    assert!(!tree.join("journal.json").exists());
    let (built, _) = build(&mut fake, "b", ": b");
    assert_eq!(built.expect("built"), main_with(": b"));
}

#[test]
fn tree_that_was_not_finished_is_made_again() {
    let mut fake = Fake::new();
    let (built, _) = build(&mut fake, "a", ": a");
    built.expect("built");
    let whole = tree(&fake).join("whole");
    fs::remove_file(&whole).expect("there");
    fs::write(tree(&fake).join("linux/Makefile"), "half").expect("written");
    let (built, heard) = build(&mut fake, "b", ": b");
    assert_eq!(built.expect("built"), main_with(": b"));
    assert_eq!(heard[0], "unpacking linux 6.12.0-1");
    assert!(whole.exists());

    // One that fails is gone at once.
    fake.write("kernel/patches/6.12/bad.patch", &patch(":", "exit 1"));
    fake.write("kernel/patches/6.12/series", "bad.patch\n");
    fake.request.extra_patches = vec![fake.write_extra("c.patch", &patch("exit 1", ": c"))];
    let error = fake.build().expect_err("the series does not build");
    assert_eq!(error.class(), ErrorClass::Build);
    assert_eq!(fake.list("tree"), Vec::<String>::new());
}

#[test]
fn tree_of_another_series_is_removed_unless_it_is_in_use() {
    let mut fake = Fake::new();
    let (built, _) = build(&mut fake, "a", ": a");
    built.expect("built");
    let old = fake.list("tree");
    let lock = fake
        .store
        .lock(&format!("tree-{}", old[0]), "kernel tree", &())
        .expect("locked");
    fake.write("kernel/config/base.config", "CONFIG_B=y\n");
    let (built, _) = build(&mut fake, "a", ": a");
    built.expect("built");
    assert_eq!(fake.list("tree").len(), 2);
    drop(lock);
    fake.write("kernel/config/base.config", "CONFIG_C=y\n");
    let (built, _) = build(&mut fake, "a", ": a");
    built.expect("built");
    assert_eq!(fake.list("tree").len(), 1);
    assert_ne!(fake.list("tree"), old);
}

#[test]
fn two_kernels_with_extra_patches_at_once_take_turns_in_the_tree() {
    let mut fake = Fake::new();
    let files = ["a", "b"].map(|name| {
        let script = format!("sleep 0.3; : {name}");
        fake.write_extra(&format!("{name}.patch"), &patch(":", &script))
    });
    fake.request.keep_tree = true;
    fake.build().expect("built");
    let kernels = thread::scope(|scope| {
        let builds = files.map(|file| {
            let request = crate::Request {
                extra_patches: vec![file],
                ..Default::default()
            };
            let fake = &fake;
            scope.spawn(move || {
                let (store, places) = (&fake.store, &fake.places);
                crate::kernel::build(store, places, &request, &fake.source, &())
            })
        });
        builds.map(|build| build.join().expect("not panicked").expect("built"))
    });
    let [a, b] = kernels.map(|kernel| read(&kernel.vmlinux()));
    assert_eq!(a, main_with("sleep 0.3; : a"));
    assert_eq!(b, main_with("sleep 0.3; : b"));
}
