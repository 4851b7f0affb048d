//! Unpacks, patches, configures and builds the kernel, and keeps what is needed to boot it and to
//! build modules against it.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;

use serde::{Deserialize, Serialize};

use crate::config::{self, Fragments};
use crate::key::Ingredients;
use crate::patches::Patches;
use crate::run::{self, Program};
use crate::source::Source;
use crate::store::{self, Store, Work};
use crate::{GuestError, Places, Progress, Request, tools};

/// Goes up whenever the steps below would build something else from the same inputs. The host's
/// compiler is not among the inputs: a cached kernel stays good when gcc is updated, or gone.
const RECIPE: u32 = 1;

/// The directory under `patches/`: the stable series of the source package.
const LINE: &str = "6.12";

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
    let patches = Patches::read(&kernel.join("patches").join(LINE), &request.extra_patches)?;
    let fragments = Fragments::read(&kernel.join("config"))?;
    let series = patches.key()?;

    let mut ingredients = Ingredients::of("kernel", RECIPE);
    ingredients.add("package", &source.package);
    ingredients.add("sha256", &source.sha256);
    ingredients.add("patches", &series.to_string());
    fragments.add_to(&mut ingredients);

    let estimate = earlier_steps(&store.stage_dir("kernel")).unwrap_or(USUAL_STEPS);
    let slot = store.slot("kernel", ingredients.key(), &FILES, progress, |work| {
        tools::ensure(&work.log, progress)?;
        let tree = work.scratch.join("linux");
        unpack(store, source, &tree, work, progress)?;
        progress.stage(&format!("patching linux {}", source.package));
        patches.apply(&tree, &source.package, work, progress)?;
        progress.stage(&format!("configuring linux {}", source.package));
        configure(&fragments, &tree, source, work)?;
        progress.stage(&format!("building linux {}", source.package));
        let steps = compile(&tree, request.jobs, estimate, work, progress)?;
        keep(&tree, work, |release, compiler| Manifest {
            release,
            compiler,
            steps,
            package: source.package.clone(),
            series: series.short().to_owned(),
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

fn unpack(
    store: &Store,
    source: &Source,
    tree: &Path,
    work: &Work,
    progress: &dyn Progress,
) -> Result<(), GuestError> {
    let what = "unpacking the kernel source";
    let deb = source.deb(store, &work.log, progress)?;
    progress.stage(&format!("unpacking linux {}", source.package));
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
            reason: format!("linux-source {} has no .tar.xz in it", source.package),
            log: work.log.clone(),
        });
    };
    store::make_dir(tree)?;
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
        .arg(tree)
        .run(what, &work.log, |_| {})?;
    fs::remove_dir_all(&package).map_err(GuestError::io("remove", package))
}

/// `make` in `tree`, with everything fixed that would otherwise differ from build to build.
pub(crate) fn make(tree: &Path) -> Program {
    Program::new("make")
        .env("KBUILD_BUILD_TIMESTAMP", "1970-01-01")
        .env("KBUILD_BUILD_USER", "ipirig")
        .env("KBUILD_BUILD_HOST", "ipirig")
        .dir(tree)
}

fn configure(
    fragments: &Fragments,
    tree: &Path,
    source: &Source,
    work: &Work,
) -> Result<(), GuestError> {
    let merged = work.scratch.join("merged.config");
    fs::write(&merged, fragments.text()).map_err(GuestError::io("write", &merged))?;
    let what = "configuring the kernel";
    make(tree)
        .assign("KCONFIG_ALLCONFIG", &merged)
        .arg("allnoconfig")
        .run(what, &work.log, |_| {})?;
    make(tree)
        .arg("olddefconfig")
        .run(what, &work.log, |_| {})?;
    let path = tree.join(".config");
    let finished = fs::read_to_string(&path).map_err(GuestError::io("read", &path))?;
    let lost = fragments.lost(&finished);
    if lost.is_empty() {
        return Ok(());
    }
    Err(GuestError::Config {
        package: source.package.clone(),
        fragments: fragments.dir.clone(),
        lost,
    })
}

/// Returns how many steps it took.
fn compile(
    tree: &Path,
    jobs: Option<NonZeroUsize>,
    estimate: u64,
    work: &Work,
    progress: &dyn Progress,
) -> Result<u64, GuestError> {
    let jobs = jobs
        .or_else(|| thread::available_parallelism().ok())
        .map_or(1, NonZeroUsize::get);
    let mut steps = 0;
    // `vmlinux` alone leaves no Module.symvers, which modules need: scripts/Makefile.modpost
    // writes it for `modules`, though the configuration has none.
    make(tree)
        .arg(format!("-j{jobs}"))
        .args(["vmlinux", "modules"])
        .run("building the kernel", &work.log, |line| {
            if run::is_step(line) {
                steps += 1;
                progress.step(steps, Some(estimate.max(steps)));
            }
        })?;
    Ok(steps)
}

/// Copies what is worth keeping out of a tree of more than a gigabyte.
fn keep(
    tree: &Path,
    work: &Work,
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
        fs::rename(&from, &to).map_err(GuestError::io("keep", &from))?;
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
