//! The steps that make a kernel from a source package, patches and configuration fragments.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;

use crate::config::Fragments;
use crate::configuration::Configuration;
use crate::patches::Patches;
use crate::source::{Own, Source};
use crate::tree::{self, Tree};
use crate::{Flavour, GuestError, Progress};
use ipirig_store::{
    Ingredients, Key, Program, Store, StoreError, Work, is_step, make_dir, remove_dir, remove_file,
};

/// Goes up whenever the steps below would build something else from the same inputs. The host's
/// compiler is not among the inputs: a cached kernel stays good when gcc is updated, or gone.
const RECIPE: u32 = 1;

/// As [`RECIPE`], for the tree that is kept for builds with extra patches.
const TREE_RECIPE: u32 = 1;

/// What is made. `vmlinux` alone leaves no Module.symvers, which modules need: scripts/Makefile.modpost
/// writes it for `modules`, though the configuration has none.
pub(crate) const TARGETS: [&str; 2] = ["vmlinux", "modules"];

/// What kernels are made from, and how.
pub(crate) struct Recipe<'a> {
    pub(crate) store: &'a Store,
    pub(crate) source: &'a Source,
    pub(crate) series: Patches,
    pub(crate) fragments: Fragments,
    /// How many compilers to run at once.
    pub(crate) jobs: Option<NonZeroUsize>,
    /// How many steps an earlier kernel took.
    pub(crate) earlier_steps: Option<u64>,
    pub(crate) progress: &'a dyn Progress,
}

impl Recipe<'_> {
    /// The key of the kernel with patches of this key.
    pub(crate) fn key(&self, patches: &Key) -> Key {
        let mut ingredients = Ingredients::of("kernel", RECIPE);
        ingredients.add("package", &self.source.package);
        ingredients.add("sha256", &self.source.sha256);
        ingredients.add("patches", &patches.to_string());
        self.fragments.add_to(&mut ingredients);
        if let Configuration::Stock | Configuration::Patched = self.fragments.of {
            // Those that were built before had nothing that a module could be built against.
            ingredients.add("kept", "headers");
        }
        ingredients.key()
    }

    /// The kept tree of the kernel with the series alone.
    pub(crate) fn kept_tree(&self, work: &Work) -> Result<Tree, GuestError> {
        let mut ingredients = Ingredients::of("tree", TREE_RECIPE);
        ingredients.add("kernel", &self.key(&self.series.key()?).to_string());
        // Objects of two compilers do not go together, and Kconfig would ask about the new one.
        ingredients.add("compiler", &compiler(&work.log)?);
        Tree::open(self.store, &ingredients.key(), self.progress, |work| {
            let linux = tree::linux(&work.scratch);
            self.build(&self.series, &linux, work).map(|_| ())
        })
    }

    /// Builds a kernel from nothing. Returns how many steps it took.
    pub(crate) fn build(
        &self,
        patches: &Patches,
        linux: &Path,
        work: &Work,
    ) -> Result<u64, GuestError> {
        let estimate = self
            .earlier_steps
            .unwrap_or(self.fragments.of.usual_steps());
        self.unpack(linux, work)?;
        self.patch(patches, "", linux, work)?;
        self.configure(linux, work)?;
        let targets: &[&str] = match self.fragments.of {
            Configuration::Lab => &["vmlinux", "bzImage"],
            _ => &TARGETS,
        };
        self.compile("", targets, Some(estimate), linux, work)
    }

    /// Announces what is being done to which kernel. `with` names what is special about it.
    fn stage(&self, doing: &str, with: &str) {
        let package = &self.source.package;
        let of = match self.fragments.of {
            Configuration::Reference(Flavour::Fast) => String::new(),
            other => format!(" ({other})"),
        };
        self.progress
            .stage(&format!("{doing} linux {package}{of}{with}"));
    }

    fn unpack(&self, linux: &Path, work: &Work) -> Result<(), GuestError> {
        let what = "unpacking the kernel source";
        if let Some(Own::Git(tree)) = &self.source.own {
            self.stage("copying", "");
            return tree.check_out(linux, &work.log);
        }
        let file = self.source.deb(self.store, &work.log, self.progress)?;
        self.stage("unpacking", "");
        let package = work.scratch.join("package");
        let tarball = if file.extension().is_some_and(|extension| extension == "deb") {
            Program::new("dpkg-deb")
                .arg("--extract")
                .arg(file)
                .arg(&package)
                .run(what, &work.log, |_| {})?;
            let dir = package.join("usr/src");
            let tarball = fs::read_dir(&dir)
                .map_err(GuestError::io("list", &dir))?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| path.to_string_lossy().ends_with(".tar.xz"));
            tarball.ok_or_else(|| StoreError::Product {
                path: dir,
                reason: format!("linux-source {} has no .tar.xz in it", self.source.package),
                log: work.log.clone(),
            })?
        } else {
            file
        };
        make_dir(linux)?;
        // Debian compresses in blocks, which xz can unpack side by side.
        let mut tar = Program::new("tar");
        if tarball
            .extension()
            .is_some_and(|extension| extension == "xz")
        {
            tar = tar.arg("--use-compress-program=xz -T0");
        }
        tar.args(["--strip-components=1", "--extract", "--file"])
            .arg(tarball)
            .arg("--directory")
            .arg(linux)
            .run(what, &work.log, |_| {})?;
        Ok(remove_dir(&package)?)
    }

    pub(crate) fn patch(
        &self,
        patches: &Patches,
        with: &str,
        linux: &Path,
        work: &Work,
    ) -> Result<(), GuestError> {
        self.stage("patching", with);
        patches.apply(linux, &self.source.package, work, self.progress)
    }

    fn configure(&self, linux: &Path, work: &Work) -> Result<(), GuestError> {
        self.stage("configuring", "");
        let merged = work.scratch.join("merged.config");
        fs::write(&merged, self.fragments.text()).map_err(GuestError::io("write", &merged))?;
        let what = "configuring the kernel";
        make(linux)
            .assign("KCONFIG_ALLCONFIG", &merged)
            .arg("allnoconfig")
            .run(what, &work.log, |_| {})?;
        make(linux)
            .arg("olddefconfig")
            .run(what, &work.log, |_| {})?;
        let path = linux.join(".config");
        let finished = fs::read_to_string(&path).map_err(GuestError::io("read", &path))?;
        let lost = self.fragments.lost(&finished);
        if lost.is_empty() {
            let missed = self.fragments.passed_over(&finished);
            if !missed.is_empty() {
                let names: Vec<_> = missed.iter().map(ToString::to_string).collect();
                let package = &self.source.package;
                self.progress.note(&format!(
                    "linux {package} goes without {}",
                    names.join(", ")
                ));
            }
            return Ok(());
        }
        Err(GuestError::Config {
            package: self.source.package.clone(),
            fragments: self.fragments.dir.clone(),
            lost,
        })
    }

    /// Returns how many steps it took.
    pub(crate) fn compile(
        &self,
        with: &str,
        targets: &[&str],
        estimate: Option<u64>,
        linux: &Path,
        work: &Work,
    ) -> Result<u64, GuestError> {
        self.stage("building", with);
        // scripts/build-version counts the builds in a tree here, for the `#1` of `uname -v`. With
        // KBUILD_BUILD_VERSION instead, init/version.o would not be what it is in a fresh tree.
        remove_file(&linux.join(".version"))?;
        compile(
            make(linux),
            targets,
            self.jobs,
            estimate,
            &work.log,
            self.progress,
        )
    }
}

/// Has `make` build `targets` with so many compilers at once; `None`: as many as the host has CPUs for us. Returns
/// how many steps it took.
pub(crate) fn compile(
    make: Program,
    targets: &[&str],
    jobs: Option<NonZeroUsize>,
    estimate: Option<u64>,
    log: &Path,
    progress: &dyn Progress,
) -> Result<u64, GuestError> {
    let jobs = jobs
        .or_else(|| thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get);
    let mut steps = 0;
    make.arg(format!("-j{jobs}"))
        .args(targets)
        .run("building the kernel", log, |line| {
            if is_step(line) {
                steps += 1;
                progress.step(steps, estimate.map(|all| all.max(steps)));
            }
        })?;
    Ok(steps)
}

/// `make` in `tree`, with everything fixed that would otherwise differ from build to build.
pub(crate) fn make(tree: &Path) -> Program {
    Program::new("make")
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        .env("KBUILD_BUILD_USER", "ipirig")
        .env("KBUILD_BUILD_HOST", "ipirig")
        .dir(tree)
}

/// gcc's own first line: what Kconfig calls `CONFIG_CC_VERSION_TEXT`.
fn compiler(log: &Path) -> Result<String, GuestError> {
    let mut first = None;
    Program::new("gcc")
        .arg("--version")
        .run("asking for the compiler's version", log, |line| {
            first.get_or_insert_with(|| line.to_owned());
        })?;
    Ok(first.unwrap_or_default())
}
