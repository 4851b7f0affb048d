//! The kernel of an emulated host: Debian's source unpatched, with an ordinary KVM for SVM and VMX
//! and what `ipirig-lab` needs to reach it. `guest/kernel/config/lab/lab.config` says what is in it.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use crate::config::Fragments;
use crate::configuration::Configuration;
use crate::kernel::{self, Keep, Manifest, earlier_steps, keep_kernel, read_manifest};
use crate::patches::Patches;
use crate::recipe::Recipe;
use crate::{GuestError, Places, Progress, Request, source, tools};
use ipirig_store::Store;

/// Where `make` leaves the image that a boot loader takes.
const BZIMAGE: &str = "arch/x86/boot/bzImage";

/// What makes the kernel's slot whole.
const FILES: [&str; 6] = [
    "vmlinux",
    "bzImage",
    "System.map",
    "config",
    "build.log",
    "manifest.json",
];

/// The kernel of an emulated host. All paths are in the cache and must not be modified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabKernel {
    /// For QEMU: an ELF file with the note of PVH.
    pub vmlinux: PathBuf,
    /// For a boot loader under Bochs.
    pub bzimage: PathBuf,
    /// What `uname -r` says.
    pub release: String,
    /// The Debian version of the source.
    pub package: String,
    /// Whether it was built by this call rather than found in the cache.
    pub fresh: bool,
}

/// Builds the kernel unless it is in the cache. `jobs`: how many compilers to run at once, `None` for as
/// many as the host has CPUs for us.
///
/// # Errors
///
/// See [`GuestError`].
pub fn build(jobs: Option<NonZeroUsize>, progress: &dyn Progress) -> Result<LabKernel, GuestError> {
    let places = Places::find()?;
    let store = Store::open(&places.cache)?;
    let source = source::find(&store, false, progress)?;
    let recipe = Recipe {
        store: &store,
        source: &source,
        series: Patches::of(&[])?,
        fragments: Fragments::alone(&places.guest.join("kernel/config"), Configuration::Lab)?,
        jobs,
        earlier_steps: earlier_steps(&store.stage_dir("kernel"), Configuration::Lab),
        progress,
    };
    let series = recipe.series.key()?;
    let slot = store.slot("kernel", recipe.key(&series), &FILES, progress, |work| {
        tools::ensure(&work.log, progress)?;
        let linux = work.scratch.join("linux");
        let steps = recipe.build(&recipe.series, &linux, work)?;
        let from = linux.join(BZIMAGE);
        fs::rename(&from, work.out.join("bzImage")).map_err(GuestError::io("keep", &from))?;
        keep_kernel(&linux, work, Keep::Move, &|release, compiler| Manifest {
            flavour: Configuration::Lab,
            release,
            package: source.package.clone(),
            series: series.short().to_owned(),
            compiler,
            steps,
        })
    })?;
    let manifest = read_manifest(&slot.dir)?;
    Ok(LabKernel {
        vmlinux: slot.dir.join("vmlinux"),
        bzimage: slot.dir.join("bzImage"),
        release: manifest.release,
        package: manifest.package,
        fresh: slot.fresh,
    })
}

/// The files by which reference guests are found in the cache, kernels with known bugs included: for a
/// host that cannot reach this machine's. The reference guest itself is built unless it is there.
///
/// # Errors
///
/// See [`GuestError`].
pub fn files(progress: &dyn Progress) -> Result<Vec<PathBuf>, GuestError> {
    let places = Places::find()?;
    crate::build_at(&places, &Request::default(), progress)?;
    let workspace = places.workspace();
    let mut files = vec![places.cache.join(ipirig_store::FORMAT)];
    if places.agent.is_some() {
        // A slot of the cache, with its hashes.
        below(workspace, &mut files)?;
    } else {
        files.extend(["Cargo.toml", "Cargo.lock"].map(|name| workspace.join(name)));
        below(&places.guest, &mut files)?;
        below(&places.cache.join("agent"), &mut files)?;
    }
    for place in [places.cache.join("initramfs"), places.cache.join("module")] {
        below(&place, &mut files)?;
    }
    // What was downloaded is told in small files beside it.
    let sources = places.cache.join("source");
    files.extend(listed(&sources)?.into_iter().filter(|path| {
        path.extension()
            .is_some_and(|extension| extension == "json")
    }));
    for slot in listed(&places.cache.join("kernel"))? {
        let guests = read_manifest(&slot)
            .is_ok_and(|manifest| matches!(manifest.flavour, Configuration::Reference(_)));
        if guests {
            files.extend(kernel::FILES.map(|name| slot.join(name)));
            files.extend(
                ipirig_store::MARKS
                    .map(|name| slot.join(name))
                    .into_iter()
                    .filter(|mark| mark.exists()),
            );
        }
    }
    Ok(files)
}

/// Adds all regular files below `dir`.
fn below(dir: &Path, files: &mut Vec<PathBuf>) -> Result<(), GuestError> {
    for path in listed(dir)? {
        if path.is_dir() {
            below(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn listed(dir: &Path) -> Result<Vec<PathBuf>, GuestError> {
    let failed = || GuestError::io("list", dir);
    let entries = fs::read_dir(dir).map_err(failed())?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed()))
        .collect()
}
