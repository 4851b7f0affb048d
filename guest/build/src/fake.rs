//! For tests: a guest directory, and a kernel source of a few lines that builds at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use tempfile::TempDir;

use crate::kernel::{self, Kernel};
use crate::source::Source;
use crate::{GuestError, Places, Progress, Request};
use ipirig_store::Store;

const MAKEFILE: &str = r#"
ifdef M
modules:
	cat Module.symvers $(M)/ipirig.c > $(M)/ipirig.ko
	cp Module.symvers $(M)/ipirig_dummy.ko
else
allnoconfig:
	grep -v UNKNOWN $(KCONFIG_ALLCONFIG) > .config
	echo 'CONFIG_CC_VERSION_TEXT="fake gcc 1.0"' >> .config
olddefconfig:
	@:
vmlinux: main.sh
	@echo '  CC      init/main.o'
	@sh main.sh
	cp main.sh vmlinux
	echo symbols $$(cat .version 2>/dev/null) > System.map
	echo built again > .version
	mkdir -p include/config
	echo '6.12.0' > include/config/kernel.release
modules: vmlinux
	@echo '  LD      vmlinux'
	echo 'versions' > Module.symvers
run-command:
	$(KBUILD_RUN_COMMAND)
endif
"#;

/// Run in the middle of the fake build; patches change its last line.
const MAIN: &str = "# one\n# two\n# three\n# four\n# five\n:\n";

const INSTALL: &str = "#!/bin/sh\nmkdir -p \"$1\" && cp Makefile Module.symvers \"$1\"\n";

/// A workspace with a guest directory and a cache of its own.
#[derive(Debug)]
pub(crate) struct Fake {
    dir: TempDir,
    pub(crate) places: Places,
    pub(crate) store: Store,
    pub(crate) source: Source,
    pub(crate) request: Request,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let places = Places {
            guest: dir.path().join("guest"),
            cache: dir.path().join("cache"),
            agent: None,
        };
        let store = Store::open(&places.cache).expect("opened");
        let deb = package(dir.path());
        let source = Source::fake(&store, &deb, "6.12.0-1");
        let fake = Self {
            dir,
            places,
            store,
            source,
            request: Request::default(),
        };
        fake.write("kernel/config/base.config", "CONFIG_A=y\n");
        fake.write("kernel/patches/6.12/series", "");
        fake.write("module/Kbuild", "obj-m := ipirig.o\n");
        fake.write("module/ipirig.c", "module\n");
        fake
    }

    /// The source, in a git tree, none of it committed.
    pub(crate) fn git_tree(&self) -> PathBuf {
        let tree = self.dir.path().join("linux-source-6.12");
        let git = || {
            let mut git = Command::new("git");
            git.arg("-C").arg(&tree);
            git
        };
        run(git().args(["init", "--quiet"]));
        run(git().args(["add", "."]));
        tree
    }

    /// Has the package of the source be another one of the same version, with the same source in it.
    pub(crate) fn repack(&mut self) {
        let root = self.dir.path().join("package");
        write(&root.join("usr/src/note"), "another package");
        let deb = pack(self.dir.path(), &root);
        self.source = Source::fake(&self.store, &deb, &self.source.package);
    }

    /// Writes a file of the guest directory.
    pub(crate) fn write(&self, name: &str, text: &str) {
        write(&self.places.guest.join(name), text);
    }

    /// Writes a patch that is not in the series.
    pub(crate) fn write_extra(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        write(&path, text);
        path
    }

    pub(crate) fn build(&self) -> Result<Kernel, GuestError> {
        self.build_with(&())
    }

    pub(crate) fn build_with(&self, progress: &dyn Progress) -> Result<Kernel, GuestError> {
        kernel::build(
            &self.store,
            &self.places,
            &self.request,
            &self.source,
            progress,
        )
    }

    /// What is in a directory of the cache, by name, without what is being removed.
    pub(crate) fn list(&self, dir: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.places.cache.join(dir)) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with("trash-"))
            .collect();
        names.sort();
        names
    }
}

/// A patch of the fake source's `main.sh` that expects `old` as its last line.
pub(crate) fn patch(old: &str, new: &str) -> String {
    format!(
        "Says what it does.\n\n--- a/main.sh\n+++ b/main.sh\n@@ -3,4 +3,4 @@\n # three\n # four\n \
         # five\n-{old}\n+{new}\n"
    )
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a parent")).expect("created");
    fs::write(path, text).expect("written");
}

/// Makes a package that looks like Debian's.
fn package(dir: &Path) -> PathBuf {
    let tree = dir.join("linux-source-6.12");
    write(&tree.join("Makefile"), MAKEFILE);
    write(&tree.join("main.sh"), MAIN);
    let install = tree.join("scripts/package/install-extmod-build");
    write(&install, INSTALL);
    run(Command::new("chmod").arg("+x").arg(install));
    let root = dir.join("package");
    write(
        &root.join("DEBIAN/control"),
        "Package: linux-source-6.12\nVersion: 6.12.0-1\nArchitecture: all\n\
         Maintainer: Nobody <nobody@example.org>\nDescription: fake\n",
    );
    fs::create_dir_all(root.join("usr/src")).expect("created");
    run(Command::new("tar")
        .arg("-cJf")
        .arg(root.join("usr/src/linux-source-6.12.tar.xz"))
        .arg("-C")
        .arg(dir)
        .arg("linux-source-6.12"));
    pack(dir, &root)
}

fn pack(dir: &Path, root: &Path) -> PathBuf {
    let deb = dir.join("fake.deb");
    run(Command::new("dpkg-deb")
        .args(["-Znone", "--build"])
        .arg(root)
        .arg(&deb));
    deb
}

fn run(command: &mut Command) {
    let output = command.output().expect("started");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// Keeps what it hears.
#[derive(Debug, Default)]
pub(crate) struct RecordedProgress(Mutex<Vec<String>>);

impl RecordedProgress {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().expect("not poisoned").clone()
    }

    fn push(&self, line: String) {
        self.0.lock().expect("not poisoned").push(line);
    }
}

impl Progress for RecordedProgress {
    fn stage(&self, name: &str) {
        self.push(name.to_owned());
    }

    fn note(&self, text: &str) {
        self.push(format!("note: {text}"));
    }

    fn step(&self, done: u64, total: Option<u64>) {
        self.push(format!("{done} of {total:?}"));
    }
}
