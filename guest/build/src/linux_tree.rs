//! Kernel trees of the user's: what is needed to run the kernel that was built in one.
//!
//! A tree is where `vmlinux` and `.config` are: the source itself, or what `make O=` named. It is only
//! read, but for [`TreeRequest::build`], which has `make` work in a directory of the cache. Whether the
//! kernel is configured for the rig is `requirements`' matter.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use object::Object;

use crate::agent::Init;
use crate::config::Fragments;
use crate::configuration::Configuration;
use crate::git::GitTree;
use crate::kernel::{self, earlier_steps};
use crate::module::Headers;
use crate::patches::Patches;
use crate::recipe::Recipe;
use crate::source::{Own, Source};
use crate::stock::{self, StockKernel};
use crate::{Built, GuestError, Places, Progress, agent, initramfs, llvm, module, recipe, tools};
use ipirig_kconfig::requirements::{self, Lack};
use ipirig_store::{Ingredients, Store, make_dir, remove_file};

/// Goes up whenever the module would come out differently for the same tree.
const RECIPE: u32 = 1;

/// Which tree.
#[derive(Debug, Clone)]
pub struct TreeRequest {
    /// The tree.
    pub dir: PathBuf,
    /// Have `make` bring a kernel with the rig's own configuration up to date, in a directory of the cache;
    /// the source must be clean, as for any `make O=`. With `LLVM` in the environment, by LLVM.
    pub build: bool,
}

/// The kernel of a tree, ready to boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeKernel {
    /// The kernel: an ELF file with symbols, in the tree.
    pub vmlinux: PathBuf,
    /// The initramfs: the agent, and the module if the kernel can load one.
    pub initramfs: PathBuf,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// What the configuration lacks, and what that costs.
    pub lacks: Vec<Lack>,
}

/// Finds the kernel of a tree, building what [`TreeRequest`] asks for, and makes module and initramfs.
///
/// # Errors
///
/// See [`GuestError`]: [`GuestError::Tree`] where there is no kernel in the tree, [`GuestError::TreeConfig`]
/// where it cannot boot here as it is configured.
pub fn find(request: &TreeRequest, progress: &dyn Progress) -> Result<TreeKernel, GuestError> {
    find_at(&Places::find()?, request, progress)
}

/// The tree's whole path.
fn absolute(dir: &Path) -> Result<PathBuf, GuestError> {
    fs::canonicalize(dir).map_err(|source| GuestError::NoTree {
        dir: dir.to_owned(),
        source,
    })
}

/// The source in a git tree of the user's as it was when it was looked at, committed or not.
#[derive(Debug)]
pub struct GitSource(Source);

impl GitSource {
    /// What is in the git tree at `dir` now.
    ///
    /// # Errors
    ///
    /// [`GuestError::NoTree`], and [`GuestError::Store`] with git's words where there is no git tree.
    pub fn of(dir: &Path, progress: &dyn Progress) -> Result<Self, GuestError> {
        Self::of_at(&Places::find()?, dir, progress)
    }

    fn of_at(places: &Places, dir: &Path, progress: &dyn Progress) -> Result<Self, GuestError> {
        let store = &Store::open(&places.cache)?;
        let dir = absolute(dir)?;
        let tree = {
            let _lock = store.lock("git", "source of a git tree", progress)?;
            let log = store.log("git");
            remove_file(&log)?;
            GitTree::of(&dir, &log)?
        };
        let name = dir.file_name().unwrap_or(dir.as_os_str());
        Ok(Self(Source {
            name: "linux".to_owned(),
            pool: None,
            file: String::new(),
            package: format!("{} (tree {:.12})", name.to_string_lossy(), tree.id()),
            sha256: tree.id().to_owned(),
            size: 0,
            own: Some(Own::Git(tree)),
        }))
    }

    /// Its kernel with `patches` on top. It is built in a copy, which is kept for more such patches; the configuration is
    /// the rig's.
    ///
    /// # Errors
    ///
    /// See [`GuestError`]: [`GuestError::Patch`] where a patch does not apply.
    pub fn patched(
        &self,
        patches: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<StockKernel, GuestError> {
        self.patched_at(&Places::find()?, patches, progress)
    }

    fn patched_at(
        &self,
        places: &Places,
        patches: &[PathBuf],
        progress: &dyn Progress,
    ) -> Result<StockKernel, GuestError> {
        let store = &Store::open(&places.cache)?;
        let fragments = fragments(places)?;
        let recipe = Recipe {
            store,
            source: &self.0,
            series: Patches::of(&[])?,
            earlier_steps: earlier_steps(&store.stage_dir("kernel"), fragments.of),
            fragments,
            jobs: None,
            progress,
        };
        let slot = kernel::build_by(&recipe, &Patches::of(patches)?, true, &stock::FILES)?;
        stock::finished(slot)
    }
}

pub(crate) fn find_at(
    places: &Places,
    request: &TreeRequest,
    progress: &dyn Progress,
) -> Result<TreeKernel, GuestError> {
    let store = Store::open(&places.cache)?;
    let dir = absolute(&request.dir)?;
    let tree = if request.build {
        make(&store, places, &dir, progress)?
    } else {
        dir
    };
    let built = BuiltTree::read(&tree)?;
    let lacks = requirements::lacks(&built.config);
    let fatal: Vec<Lack> = lacks.iter().filter(|lack| lack.fatal).cloned().collect();
    if !fatal.is_empty() {
        return Err(GuestError::TreeConfig {
            config: tree.join(".config"),
            lacks: fatal,
        });
    }
    let module = built.module(&store, places, progress)?;
    let agent = agent::build(&store, places, Init::Agent, progress)?;
    let initramfs = initramfs::build(&store, &agent, module.as_ref())?;
    Ok(TreeKernel {
        vmlinux: built.vmlinux,
        initramfs: initramfs.path,
        release: built.release,
        lacks,
    })
}

/// What is in a tree in which a kernel was built.
struct BuiltTree {
    dir: PathBuf,
    vmlinux: PathBuf,
    config: String,
    release: String,
    /// Says which kernel it is: the linker's build ID, or the whole file where there is none.
    identity: Vec<u8>,
}

impl BuiltTree {
    fn read(dir: &Path) -> Result<Self, GuestError> {
        let text = |name: &str| {
            let path = dir.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => Ok(text),
                Err(error) if error.kind() == ErrorKind::NotFound => Err(nothing_built(dir, name)),
                Err(error) => Err(GuestError::io("read", path)(error)),
            }
        };
        let config = text(".config")?;
        let vmlinux = dir.join("vmlinux");
        let image = match fs::read(&vmlinux) {
            Ok(image) => image,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(nothing_built(dir, "vmlinux"));
            }
            Err(error) => return Err(GuestError::io("read", vmlinux)(error)),
        };
        let release = text("include/config/kernel.release")?.trim().to_owned();
        let build_id = object::File::parse(&*image)
            .ok()
            .and_then(|file| file.build_id().ok().flatten().map(<[u8]>::to_vec));
        Ok(Self {
            dir: dir.to_owned(),
            vmlinux,
            config,
            release,
            identity: build_id.unwrap_or(image),
        })
    }

    /// Builds the module against the tree, unless the kernel can load none.
    fn module(
        &self,
        store: &Store,
        places: &Places,
        progress: &dyn Progress,
    ) -> Result<Option<Built>, GuestError> {
        if ipirig_kconfig::value(&self.config, "CONFIG_MODULES").is_none() {
            return Ok(None);
        }
        let mut ingredients = Ingredients::of("linux-tree", RECIPE);
        ingredients.add("release", &self.release);
        ingredients.add("config", &self.config);
        ingredients.bytes("kernel", &self.identity);
        let versions = self.dir.join("Module.symvers");
        let mut arguments = vec![];
        if versions.exists() {
            ingredients.file("versions", &versions)?;
        } else {
            // `make vmlinux` alone leaves none. What the module uses is then not checked before it is loaded.
            arguments.push("KBUILD_MODPOST_WARN=1".to_owned());
        }
        arguments.extend(llvm::argument(&self.config));
        let headers = Headers {
            tree: self.dir.clone(),
            slot: None,
            key: ingredients.key().to_string(),
            arguments,
        };
        module::build(store, places, &headers, progress).map(Some)
    }
}

fn nothing_built(dir: &Path, what: &str) -> GuestError {
    // A source has Kconfig; what `make O=` named has not, before anything was made there.
    let source = dir.join("Kconfig").exists() && dir.join("Makefile").exists();
    let advice = if source {
        format!(
            "build it with `make -C {} -j$(nproc) vmlinux modules`, name the directory that you gave to `make O=`, \
             or let --build do it",
            dir.display()
        )
    } else {
        "it is no kernel tree, nor what `make O=` named".to_owned()
    };
    GuestError::Tree {
        dir: dir.to_owned(),
        missing: what.to_owned(),
        advice,
    }
}

fn fragments(places: &Places) -> Result<Fragments, GuestError> {
    Fragments::read(&places.guest.join("kernel/config"), Configuration::Tree)
}

/// Has `make` bring a kernel of the source in `source` up to date. Returns where.
fn make(
    store: &Store,
    places: &Places,
    source: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, GuestError> {
    if !source.join("Kconfig").exists() {
        return Err(nothing_built(source, "Kconfig"));
    }
    let mut place = Ingredients::of("linux", 1);
    place.add("source", &source.to_string_lossy());
    // What one compiler made is of no use to another.
    let llvm = std::env::var(llvm::VARIABLE).ok();
    if let Some(llvm) = &llvm {
        place.add("llvm", llvm);
    }
    let place = place.key();
    let name = format!("linux-{}", place.short());
    let out = store.stage_dir("linux").join(place.short());
    let _lock = store.lock(&name, "kernel", progress)?;
    let log = store.log(&name);
    remove_file(&log)?;
    tools::ensure(&log, progress)?;
    make_dir(&out)?;

    let fragments = fragments(places)?;
    let merged = out.join("ipirig.config");
    progress.stage("configuring the kernel");
    fs::write(&merged, fragments.text()).map_err(GuestError::io("write", &merged))?;
    // Anew each time: another commit of the source may know other options. What depends on an option is only
    // compiled again if that option changed.
    let make = || {
        let mut make = recipe::make(source);
        make.keep(llvm::VARIABLE);
        make.assign("O", &out)
    };
    make()
        .assign("KCONFIG_ALLCONFIG", &merged)
        .arg("allnoconfig")
        .run("configuring the kernel", &log, |_| {})?;
    progress.stage(&format!("building {}", source.display()));
    recipe::compile(make(), &recipe::TARGETS, None, None, &log, progress)?;
    Ok(out)
}

#[cfg(test)]
mod tests;
