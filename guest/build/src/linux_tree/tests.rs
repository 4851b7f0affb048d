use super::*;
use crate::fake::{Fake, patch};

/// A tree that looks built, whose Makefile copies instead of compiling.
fn tree(config: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    };
    write("vmlinux", "not even ELF");
    write(".config", config);
    write("include/config/kernel.release", "7.2.0-mine\n");
    write("Module.symvers", "versions\n");
    write(
        "Makefile",
        "modules:\n\tcat Module.symvers $(M)/ipirig.c > $(M)/ipirig.ko\n\techo $(LLVM) > $(M)/ipirig_dummy.ko\n",
    );
    dir
}

fn request(dir: &Path) -> TreeRequest {
    TreeRequest {
        dir: dir.to_owned(),
        build: false,
    }
}

fn message(places: &Places, dir: &Path) -> String {
    find_at(places, &request(dir), &())
        .expect_err("an error")
        .to_string()
}

#[test]
fn what_was_not_built_is_named_with_how_to_build_it() {
    let fake = Fake::new();
    let dir = tempfile::tempdir().expect("a directory");
    let text = message(&fake.places, dir.path());
    assert!(
        text.contains("has no .config") && text.contains("no kernel tree"),
        "{text}"
    );

    let error = find_at(&fake.places, &request(Path::new("/no/such")), &()).expect_err("an error");
    assert_eq!(error.to_string(), "no kernel tree at /no/such");
    assert_eq!(error.class(), crate::ErrorClass::Input);

    let dir = tree("");
    fs::write(dir.path().join("Kconfig"), "").expect("written");
    fs::remove_file(dir.path().join("vmlinux")).expect("removed");
    let text = message(&fake.places, dir.path());
    assert!(
        text.contains("has no vmlinux") && text.contains("make -C") && text.contains("--build"),
        "{text}"
    );
}

#[test]
fn each_option_that_nothing_runs_without_is_a_line() {
    let fake = Fake::new();
    let config = requirements::fragment()
        .replace("CONFIG_DEVMEM=y", "")
        .replace("CONFIG_BLK_DEV_INITRD=y", "")
        .replace("CONFIG_MODULES=y", "");
    let dir = tree(&config);
    let text = message(&fake.places, dir.path());
    let lines: Vec<&str> = text.lines().skip(1).map(str::trim).collect();
    assert_eq!(
        lines,
        [
            "CONFIG_BLK_DEV_INITRD: the agent comes in an initramfs",
            "CONFIG_DEVMEM: the mailbox is mapped through /dev/mem",
            "`ipirig guest config` prints a fragment for scripts/kconfig/merge_config.sh"
        ]
    );
}

#[test]
fn a_module_is_built_once_for_a_tree_and_again_when_its_kernel_changes() {
    let fake = Fake::new();
    let dir = tree("CONFIG_MODULES=y\nCONFIG_CC_IS_CLANG=y\n");
    let store = Store::open(&fake.places.cache).expect("opened");
    let module = || {
        let built = BuiltTree::read(dir.path()).expect("read");
        built
            .module(&store, &fake.places, &())
            .expect("built")
            .expect("a module")
    };
    let first = module();
    assert!(first.fresh);
    assert_eq!(
        fs::read_to_string(&first.path).expect("read"),
        "versions\nmodule\n"
    );
    // Clang's kernels take clang's modules.
    let dummy = first.path.with_file_name(module::DUMMY);
    assert_eq!(fs::read_to_string(dummy).expect("read"), "1\n");
    assert!(!module().fresh);
    fs::write(dir.path().join("vmlinux"), "another").expect("written");
    assert!(module().fresh);
}

#[test]
fn a_kernel_without_modules_gets_none() {
    let fake = Fake::new();
    let dir = tree("# CONFIG_MODULES is not set\n");
    let store = Store::open(&fake.places.cache).expect("opened");
    let built = BuiltTree::read(dir.path()).expect("read");
    let module = built.module(&store, &fake.places, &()).expect("none");
    assert!(module.is_none(), "{module:?}");
}

#[test]
fn a_patch_is_tried_on_what_is_in_a_git_tree_now_and_the_tree_is_left_alone() {
    let fake = Fake::new();
    fake.write("kernel/config/tree/tree.config", "CONFIG_T=y\n");
    let dir = fake.git_tree();
    let main = dir.join("main.sh");
    let theirs = fs::read_to_string(&main)
        .expect("read")
        .replace("# one", "# mine");
    fs::write(&main, &theirs).expect("written");
    let source = GitSource::of_at(&fake.places, &dir, &()).expect("found");
    let built = |patches: &[PathBuf]| source.patched_at(&fake.places, patches, &());
    let kernel = |patches: &[PathBuf]| {
        let kernel = built(patches).expect("built");
        fs::read_to_string(kernel.vmlinux).expect("read")
    };
    assert_eq!(kernel(&[]), theirs);
    let mutant = fake.write_extra("a.patch", &patch(":", ": a"));
    assert_eq!(
        kernel(std::slice::from_ref(&mutant)),
        theirs.replace("\n:\n", "\n: a\n")
    );
    assert_eq!(fs::read_to_string(&main).expect("read"), theirs);
    // One more kernel is built in the tree that is kept.
    assert_eq!(fake.list("tree").len(), 1);

    let other = fake.write_extra("b.patch", &patch("true", ": b"));
    let error = built(&[other]).expect_err("refused");
    assert!(matches!(error, GuestError::Patch(_)), "{error:?}");
    let error = GitSource::of_at(&fake.places, &fake.places.guest, &()).expect_err("no git tree");
    assert!(error.to_string().contains("git"), "{error}");
}
