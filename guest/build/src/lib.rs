//! Builds the guest that ipirig runs: a Debian kernel with the reference series, the `ipirig.ko`
//! module, the agent that is PID 1, and the initramfs that holds the last two.
//!
//! Every stage is cached by a hash of what goes into it, under the user's cache directory
//! ([`Places`]). A guest that is in the cache is found without starting any program. A stage is
//! built in a work directory and renamed into place when it is whole, so an interrupted build
//! leaves nothing that looks finished; a file lock keeps two runs from building the same thing.
//! For kernels with patches on top of the series ([`Request::extra_patches`]) one built source tree
//! is kept, so that only what such patches touch is compiled.
//!
//! This crate does not boot anything (`ipirig-machine` does), does not know what the kernel
//! options, patches, module and agent are for (the other directories under `guest/` do), and does
//! not draw progress: it reports through [`Progress`] and the command line shows it.

mod agent;
mod agent_profile;
mod config;
mod configuration;
mod error;
mod git;
mod initramfs;
mod kernel;
pub mod lab;
pub mod linux_tree;
mod llvm;
mod module;
mod patches;
mod pool;
mod recipe;
mod root;
mod source;
pub mod stock;
mod tools;
mod touched;
mod tree;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tree_tests;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

pub use error::{GuestError, LostOption, PatchFailure, Rejection};
pub use ipirig_abi::Flavour;
pub use ipirig_store::{CACHE_OWNER, Embedded, ErrorClass, Places, Progress, StoreError, Trust};
pub use root::with_root;

use agent::Init;
use ipirig_store::{Slot, Store};

/// What to build.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Which kernel.
    pub flavour: Flavour,
    /// Ask the archive for a newer kernel source even if one has been downloaded.
    pub update: bool,
    /// Patches to apply after the series, in this order. The first kernel with such patches takes
    /// as long as one without, and leaves a built tree of 1.7 GB in the cache; the next ones start
    /// from that. Patches of Kconfig files, of `scripts/` or of `tools/`, and patches that are not
    /// plain unified diffs, are built from scratch.
    pub extra_patches: Vec<PathBuf>,
    /// Keep the built tree also of a kernel without extra patches, if it has to be built at all:
    /// for who is going to ask for kernels with extra patches.
    pub keep_tree: bool,
    /// How many compilers to run at once. `None`: as many as the host has CPUs for us.
    pub jobs: Option<NonZeroUsize>,
}

/// A guest that is ready to boot. All paths are in the cache and must not be modified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Which kernel it is.
    pub flavour: Flavour,
    /// The kernel: an ELF file with symbols.
    pub vmlinux: PathBuf,
    /// The kernel's symbols as text.
    pub system_map: PathBuf,
    /// The kernel's configuration.
    pub config: PathBuf,
    /// The initramfs: agent and module.
    pub initramfs: PathBuf,
    /// What `uname -r` says in the guest, for example `6.12.117`.
    pub release: String,
    /// The Debian version of the source, for example `6.12.117-1~deb12u1`.
    pub package: String,
    /// A short hash of the patches that were applied, series and extra ones.
    pub series: String,
    /// The hash of everything that went into the kernel.
    pub key: String,
    /// What `make` printed when the kernel was built.
    pub log: PathBuf,
    /// The compiler that built the kernel, as it names itself.
    pub compiler: String,
    /// Whether any part was built by this call rather than found in the cache.
    pub fresh: bool,
}

/// An initramfs that is ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initramfs {
    /// The archive: plain newc cpio.
    pub path: PathBuf,
    /// The hash of what is in it.
    pub key: String,
    /// Whether any part was built by this call rather than found in the cache.
    pub fresh: bool,
}

/// Builds whatever of the guest is not in the cache.
///
/// # Errors
///
/// See [`GuestError`]. After an error the cache holds the stages that were finished.
pub fn build(request: &Request, progress: &dyn Progress) -> Result<Guest, GuestError> {
    build_at(&Places::find()?, request, progress)
}

/// Like [`build`], at given places.
///
/// # Errors
///
/// See [`GuestError`].
pub fn build_at(
    places: &Places,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Guest, GuestError> {
    let store = Store::open(&places.cache)?;
    let source = source::find(&store, request.update, progress)?;
    let kernel = kernel::build(&store, places, request, &source, progress)?;
    let module = module::build(&store, places, &kernel.headers(), progress)?;
    let agent = agent::build(&store, places, Init::Agent, progress)?;
    let initramfs = initramfs::build(&store, &agent, Some(&module))?;
    Ok(Guest {
        flavour: request.flavour,
        vmlinux: kernel.vmlinux(),
        system_map: kernel.system_map(),
        config: kernel.config(),
        log: kernel.log(),
        initramfs: initramfs.path,
        release: kernel.manifest.release,
        package: kernel.manifest.package,
        series: kernel.manifest.series,
        compiler: kernel.manifest.compiler,
        key: kernel.key,
        fresh: kernel.fresh || module.fresh || agent.fresh || initramfs.fresh,
    })
}

/// Builds an initramfs with the agent alone, for a kernel that is not ours.
///
/// # Errors
///
/// See [`GuestError`].
pub fn initramfs_without_module(progress: &dyn Progress) -> Result<Initramfs, GuestError> {
    let places = Places::find()?;
    let store = Store::open(&places.cache)?;
    let agent = agent::build(&store, &places, Init::Agent, progress)?;
    let built = initramfs::build(&store, &agent, None)?;
    Ok(Initramfs {
        fresh: agent.fresh || built.fresh,
        path: built.path,
        key: built.key,
    })
}

/// Builds an initramfs for the kernel of `request` whose process 1 is `ipirig-hostile`: for tests that a guest which
/// lies gets no verdict that it has not earned.
///
/// # Errors
///
/// See [`GuestError`].
pub fn hostile_initramfs(
    request: &Request,
    progress: &dyn Progress,
) -> Result<Initramfs, GuestError> {
    let places = Places::find()?;
    let store = Store::open(&places.cache)?;
    let source = source::find(&store, request.update, progress)?;
    let kernel = kernel::build(&store, &places, request, &source, progress)?;
    let module = module::build(&store, &places, &kernel.headers(), progress)?;
    let init = agent::build(&store, &places, Init::Hostile, progress)?;
    let built = initramfs::build(&store, &init, Some(&module))?;
    Ok(Initramfs {
        fresh: init.fresh || built.fresh,
        path: built.path,
        key: built.key,
    })
}

/// One file that a stage made.
#[derive(Debug)]
struct Built {
    path: PathBuf,
    key: String,
    fresh: bool,
}

impl Built {
    /// The file `name` of a finished stage.
    fn in_slot(slot: &Slot, name: &str) -> Self {
        let dir: &Path = &slot.dir;
        Self {
            path: dir.join(name),
            key: slot.key.to_string(),
            fresh: slot.fresh,
        }
    }
}
