//! Finds the kernel in the cache, or has it built and keeps what is needed to boot it and to build
//! modules against it.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::Fragments;
use crate::configuration::Configuration;
use crate::module::Headers;
use crate::patches::Patches;
use crate::recipe::{self, Recipe, TARGETS};
use crate::source::Source;
use crate::tree;
use crate::{GuestError, Places, Progress, Request, tools};
use ipirig_store::{Slot, Store, Work, write_json};

/// The directory under `patches/`: the stable series of the source package.
const LINE: &str = "6.12";

/// What makes a kernel slot whole.
pub(crate) const FILES: [&str; 6] = [
    "vmlinux",
    "System.map",
    "config",
    "build.log",
    "manifest.json",
    "tree/Module.symvers",
];

/// What is known about a finished kernel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Kernels from before there were flavours do not have it.
    #[serde(default)]
    pub(crate) flavour: Configuration,
    /// What `uname -r` says.
    pub(crate) release: String,
    /// The Debian version of the source.
    pub(crate) package: String,
    /// The short hash of the patches.
    pub(crate) series: String,
    /// gcc's own first line.
    pub(crate) compiler: String,
    /// How many lines of progress `make` printed.
    pub(crate) steps: u64,
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
    pub(crate) fn headers(&self) -> Headers {
        Headers {
            tree: self.dir.join("tree"),
            slot: Some(self.dir.clone()),
            key: self.key.clone(),
            arguments: vec![],
        }
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
    let of = request.flavour.into();
    let recipe = Recipe {
        store,
        source,
        series: Patches::series(&kernel.join("patches").join(LINE))?,
        fragments: Fragments::read(&kernel.join("config"), of)?,
        jobs: request.jobs,
        earlier_steps: earlier_steps(&store.stage_dir("kernel"), of),
        progress,
    };
    let extra = Patches::of(&request.extra_patches)?;
    let slot = build_by(&recipe, &extra, request.keep_tree, &FILES)?;
    let manifest = read_manifest(&slot.dir)?;
    Ok(Kernel {
        dir: slot.dir,
        key: slot.key.to_string(),
        manifest,
        fresh: slot.fresh,
    })
}

/// Finds the kernel of a recipe with patches on top of its series in the cache, or builds it; `files` make it whole.
/// `keep_tree`: what [`Request`] says.
pub(crate) fn build_by(
    recipe: &Recipe<'_>,
    extra: &Patches,
    keep_tree: bool,
    files: &[&'static str],
) -> Result<Slot, GuestError> {
    let progress = recipe.progress;
    let patches = recipe.series.then(extra);
    let series = patches.key()?;
    let manifest = |release, compiler, steps| Manifest {
        flavour: recipe.fragments.of,
        release,
        package: recipe.source.package.clone(),
        series: series.short().to_owned(),
        compiler,
        steps,
    };

    let key = recipe.key(&series);
    let slot = recipe.store.slot("kernel", key, files, progress, |work| {
        tools::ensure(&work.log, progress)?;
        let touched = tree::undoable(extra)?
            // Without extra patches there is nothing to touch.
            .filter(|files| keep_tree || !files.is_empty());
        let Some(touched) = touched else {
            let linux = work.scratch.join("linux");
            let steps = recipe.build(&patches, &linux, work)?;
            return keep(&linux, work, Keep::Move, &|release, compiler| {
                manifest(release, compiler, steps)
            });
        };
        recipe
            .kept_tree(work)?
            .with_changes(&touched, progress, |linux| {
                let names = extra.with_names();
                if !touched.is_empty() {
                    recipe.patch(extra, &names, linux, work)?;
                }
                let steps = recipe.compile(&names, &TARGETS, None, linux, work)?;
                keep(linux, work, Keep::Copy, &|release, compiler| {
                    manifest(release, compiler, steps)
                })
            })
    })?;
    Ok(slot)
}

pub(crate) fn read_manifest(dir: &Path) -> Result<Manifest, GuestError> {
    let path = dir.join("manifest.json");
    let text = fs::read(&path).map_err(GuestError::io("read", &path))?;
    serde_json::from_slice(&text).map_err(|error| GuestError::io("read", &path)(error.into()))
}

/// How many steps some kernel of this configuration in the cache took.
pub(crate) fn earlier_steps(dir: &Path, of: Configuration) -> Option<u64> {
    let slots = fs::read_dir(dir).ok()?.flatten();
    slots
        .filter_map(|slot| read_manifest(&slot.path()).ok())
        .filter(|manifest| manifest.flavour == of)
        .map(|manifest| manifest.steps)
        .max()
}

/// What to do with the results in a tree.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Keep {
    /// The tree is not needed any more.
    Move,
    /// `make` is to continue with them.
    Copy,
}

/// The kernel's own way to make a headers package: scripts/package/builddeb uses it. Linux 6.1 does not
/// have it yet.
const PACK_HEADERS: &str = "scripts/package/install-extmod-build";

/// Copies what is worth keeping out of a tree of more than a gigabyte.
fn keep(
    tree: &Path,
    work: &Work,
    how: Keep,
    manifest: &dyn Fn(String, String) -> Manifest,
) -> Result<(), GuestError> {
    if !tree.join(PACK_HEADERS).exists() {
        return keep_kernel(tree, work, how, manifest);
    }
    recipe::make(tree)
        .arg("run-command")
        // For a shell: the store has seen to it that the path needs no quotes.
        .arg(format!(
            "KBUILD_RUN_COMMAND={PACK_HEADERS} {}",
            work.out.join("tree").display()
        ))
        .run("keeping what modules need", &work.log, |_| {})?;
    keep_kernel(tree, work, how, manifest)
}

/// The part of it that is needed to boot.
pub(crate) fn keep_kernel(
    tree: &Path,
    work: &Work,
    how: Keep,
    manifest: &dyn Fn(String, String) -> Manifest,
) -> Result<(), GuestError> {
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
    let compiler = ipirig_kconfig::value(&config, "CONFIG_CC_VERSION_TEXT").unwrap_or_default();
    let manifest = manifest(release.trim().to_owned(), compiler);
    let log = work.out.join("build.log");
    fs::copy(&work.log, &log).map_err(GuestError::io("create", &log))?;
    Ok(write_json(&work.out.join("manifest.json"), &manifest)?)
}
