//! Unpacks, patches, configures and builds the kernel, and keeps what is needed to boot it and to
//! build modules against it.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::config::{self, Fragments};
use crate::key::{Ingredients, Key};
use crate::patches::Patches;
use crate::run::{self, Program};
use crate::source::Source;
use crate::store::{self, Store, Work};
use crate::tree::{self, Tree};
use crate::{GuestError, Places, Progress, Request, tools};

/// Goes up whenever the steps below would build something else from the same inputs. The host's
/// compiler is not among the inputs: a cached kernel stays good when gcc is updated, or gone.
const RECIPE: u32 = 1;

/// The directory under `patches/`: the stable series of the source package.
const LINE: &str = "6.12";

/// As [`RECIPE`], for the tree that is kept for builds with extra patches.
const TREE_RECIPE: u32 = 1;

/// What makes a kernel slot whole.
const FILES: [&str; 6] = [
    "vmlinux",
    "System.map",
    "config",
    "build.log",
    "manifest.json",
    "tree/Module.symvers",
];

/// Lines like `  CC  kernel/fork.o` in a build of the reference configuration; only the first
/// build on a machine is measured against it.
const USUAL_STEPS: u64 = 1130;

/// What is known about a finished kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// What `uname -r` says.
    pub(crate) release: String,
    /// The Debian version of the source.
    pub(crate) package: String,
    /// The short hash of the patches.
    pub(crate) series: String,
    /// gcc's own first line.
    pub(crate) compiler: String,
    /// How many lines of progress `make` printed.
    steps: u64,
}

/// A finished kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    dir: PathBuf,
    pub(crate) key: String,
    pub(crate) manifest: Manifest,
    pub(crate) fresh: bool,
}

impl Kernel {
    pub(crate) fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    pub(crate) fn system_map(&self) -> PathBuf {
        self.dir.join("System.map")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.dir.join("config")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("build.log")
    }

    /// What modules are built against: headers, scripts, symbol versions.
    pub(crate) fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }
}

/// Finds the kernel in the cache or builds it.
pub(crate) fn build(
    store: &Store,
    places: &Places,
    request: &Request,
    source: &Source,
    progress: &dyn Progress,
) -> Result<Kernel, GuestError> {
    let kernel = places.guest.join("kernel");
    let recipe = Recipe {
        store,
        source,
        series: Patches::series(&kernel.join("patches").join(LINE))?,
        fragments: Fragments::read(&kernel.join("config"))?,
        jobs: request.jobs,
        progress,
    };
    let extra = Patches::of(&request.extra_patches)?;
    let patches = recipe.series.then(&extra);
    let series = patches.key()?;
    let manifest = |release, compiler, steps| Manifest {
        release,
        package: source.package.clone(),
        series: series.short().to_owned(),
        compiler,
        steps,
    };

    let slot = store.slot("kernel", recipe.key(&series), &FILES, progress, |work| {
        tools::ensure(&work.log, progress)?;
        let touched = tree::undoable(&extra)?
            // Without extra patches there is nothing to touch.
            .filter(|files| request.keep_tree || !files.is_empty());
        let Some(touched) = touched else {
            let linux = work.scratch.join("linux");
            let steps = recipe.build(&patches, &linux, work)?;
            return keep(&linux, work, Keep::Move, |release, compiler| {
                manifest(release, compiler, steps)
            });
        };
        recipe
            .kept_tree(work)?
            .with_changes(&touched, progress, |linux| {
                let names = extra.with_names();
                if !touched.is_empty() {
                    recipe.patch(&extra, &names, linux, work)?;
                }
                let steps = recipe.compile(&names, None, linux, work)?;
                keep(linux, work, Keep::Copy, |release, compiler| {
                    manifest(release, compiler, steps)
                })
            })
    })?;
    let manifest = read_manifest(&slot.dir)?;
    Ok(Kernel {
        dir: slot.dir,
        key: slot.key.to_string(),
        manifest,
        fresh: slot.fresh,
    })
}

/// What kernels are made from, and how.
struct Recipe<'a> {
    store: &'a Store,
    source: &'a Source,
    series: Patches,
    fragments: Fragments,
    jobs: Option<NonZeroUsize>,
    progress: &'a dyn Progress,
}

impl Recipe<'_> {
    /// The key of the kernel with patches of this key.
    fn key(&self, patches: &Key) -> Key {
        let mut ingredients = Ingredients::of("kernel", RECIPE);
        ingredients.add("package", &self.source.package);
        ingredients.add("sha256", &self.source.sha256);
        ingredients.add("patches", &patches.to_string());
        self.fragments.add_to(&mut ingredients);
        ingredients.key()
    }

    /// The kept tree of the kernel with the series alone.
    fn kept_tree(&self, work: &Work) -> Result<Tree, GuestError> {
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
    fn build(&self, patches: &Patches, linux: &Path, work: &Work) -> Result<u64, GuestError> {
        let estimate = earlier_steps(&self.store.stage_dir("kernel")).unwrap_or(USUAL_STEPS);
        self.unpack(linux, work)?;
        self.patch(patches, "", linux, work)?;
        self.configure(linux, work)?;
        self.compile("", Some(estimate), linux, work)
    }

    /// Announces what is being done to which kernel. `with` names what is special about it.
    fn stage(&self, doing: &str, with: &str) {
        let package = &self.source.package;
        self.progress
            .stage(&format!("{doing} linux {package}{with}"));
    }

    fn unpack(&self, linux: &Path, work: &Work) -> Result<(), GuestError> {
        let what = "unpacking the kernel source";
        let deb = self.source.deb(self.store, &work.log, self.progress)?;
        self.stage("unpacking", "");
        let package = work.scratch.join("package");
        Program::new("dpkg-deb")
            .arg("--extract")
            .arg(deb)
            .arg(&package)
            .run(what, &work.log, |_| {})?;

        let dir = package.join("usr/src");
        let tarball = fs::read_dir(&dir)
            .map_err(GuestError::io("list", &dir))?
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.to_string_lossy().ends_with(".tar.xz"));
        let Some(tarball) = tarball else {
            return Err(GuestError::Product {
                path: dir,
                reason: format!("linux-source {} has no .tar.xz in it", self.source.package),
                log: work.log.clone(),
            });
        };
        store::make_dir(linux)?;
        // Debian compresses in blocks, which xz can unpack side by side.
        Program::new("tar")
            .args([
                "--use-compress-program=xz -T0",
                "--strip-components=1",
                "--extract",
                "--file",
            ])
            .arg(tarball)
            .arg("--directory")
            .arg(linux)
            .run(what, &work.log, |_| {})?;
        fs::remove_dir_all(&package).map_err(GuestError::io("remove", package))
    }

    fn patch(
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
            return Ok(());
        }
        Err(GuestError::Config {
            package: self.source.package.clone(),
            fragments: self.fragments.dir.clone(),
            lost,
        })
    }

    /// Returns how many steps it took.
    fn compile(
        &self,
        with: &str,
        estimate: Option<u64>,
        linux: &Path,
        work: &Work,
    ) -> Result<u64, GuestError> {
        self.stage("building", with);
        let jobs = self
            .jobs
            .or_else(|| thread::available_parallelism().ok())
            .map_or(1, NonZeroUsize::get);
        let mut steps = 0;
        // `vmlinux` alone leaves no Module.symvers, which modules need: scripts/Makefile.modpost
        // writes it for `modules`, though the configuration has none.
        make(linux)
            .arg(format!("-j{jobs}"))
            .args(["vmlinux", "modules"])
            .run("building the kernel", &work.log, |line| {
                if run::is_step(line) {
                    steps += 1;
                    self.progress
                        .step(steps, estimate.map(|all| all.max(steps)));
                }
            })?;
        Ok(steps)
    }
}

fn read_manifest(dir: &Path) -> Result<Manifest, GuestError> {
    let path = dir.join("manifest.json");
    let text = fs::read(&path).map_err(GuestError::io("read", &path))?;
    serde_json::from_slice(&text).map_err(|error| GuestError::io("read", &path)(error.into()))
}

/// How many steps some kernel in the cache took.
fn earlier_steps(dir: &Path) -> Option<u64> {
    let slots = fs::read_dir(dir).ok()?.flatten();
    slots
        .filter_map(|slot| read_manifest(&slot.path()).ok())
        .map(|manifest| manifest.steps)
        .max()
}

/// `make` in `tree`, with everything fixed that would otherwise differ from build to build.
pub(crate) fn make(tree: &Path) -> Program {
    Program::new("make")
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        .env("KBUILD_BUILD_USER", "ipirig")
        .env("KBUILD_BUILD_HOST", "ipirig")
        // The `#1` in `uname -v`, which would go up with each build in one tree.
        .env("KBUILD_BUILD_VERSION", "1")
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

/// What to do with the results in a tree.
#[derive(Debug, Clone, Copy)]
enum Keep {
    /// The tree is not needed any more.
    Move,
    /// `make` is to go on from them.
    Copy,
}

/// Copies what is worth keeping out of a tree of more than a gigabyte.
fn keep(
    tree: &Path,
    work: &Work,
    how: Keep,
    manifest: impl FnOnce(String, String) -> Manifest,
) -> Result<(), GuestError> {
    // The kernel's own way to make a headers package: scripts/package/builddeb uses it.
    make(tree)
        .arg("run-command")
        // For a shell: the store has seen to it that the path needs no quotes.
        .arg(format!(
            "KBUILD_RUN_COMMAND=scripts/package/install-extmod-build {}",
            work.out.join("tree").display()
        ))
        .run("keeping what modules need", &work.log, |_| {})?;
    for (from, to) in [
        ("vmlinux", "vmlinux"),
        ("System.map", "System.map"),
        (".config", "config"),
    ] {
        let (from, to) = (tree.join(from), work.out.join(to));
        match how {
            Keep::Move => fs::rename(&from, &to),
            Keep::Copy => fs::copy(&from, &to).map(|_| ()),
        }
        .map_err(GuestError::io("keep", &from))?;
    }
    let path = tree.join("include/config/kernel.release");
    let release = fs::read_to_string(&path).map_err(GuestError::io("read", &path))?;
    let path = work.out.join("config");
    let config = fs::read_to_string(&path).map_err(GuestError::io("read", &path))?;
    let compiler = config::value(&config, "CONFIG_CC_VERSION_TEXT").unwrap_or_default();
    let manifest = manifest(release.trim().to_owned(), compiler);
    let log = work.out.join("build.log");
    fs::copy(&work.log, &log).map_err(GuestError::io("create", &log))?;
    store::write_json(&work.out.join("manifest.json"), &manifest)
}
