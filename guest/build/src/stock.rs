//! Kernels of source as Debian ships it, with a small configuration: what people run, to be observed. And the same
//! with the reference series, for those versions that there is one for (`guest/kernel/patches`).
//!
//! The source comes from where apt has it; for what apt does not offer, from Debian's pool, by a list
//! of what was there (`guest/kernel/stock/pool`), or from a file of the user's.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::agent::Init;
use crate::config::Fragments;
use crate::configuration::Configuration;
use crate::kernel::{self, earlier_steps, read_manifest};
use crate::module::{self, Headers};
use crate::patches::Patches;
use crate::pool::{name, pool};
use crate::recipe::Recipe;
use crate::source::{self, Own, Source};
use crate::{GuestError, Initramfs, Places, Progress, agent, initramfs};
use ipirig_store::{Slot, Store, StoreError};

/// What makes a stock kernel's slot whole.
pub(crate) const FILES: [&str; 5] = [
    "vmlinux",
    "System.map",
    "config",
    "build.log",
    "manifest.json",
];

/// Which stock kernel.
#[derive(Debug, Clone, Default)]
pub struct StockRequest {
    /// The version as Debian's package names have it: `7.2` of `linux-source-7.2`.
    pub version: String,
    /// With the reference series for this version.
    pub series: bool,
    /// The source: a linux-source package or a tarball of a kernel, instead of what Debian has.
    pub source: Option<PathBuf>,
    /// Ask for a newer package even if one has been downloaded.
    pub update: bool,
    /// Patches to apply on top, and whether to keep the built tree for more of them, as in [`crate::Request`].
    pub extra_patches: Vec<PathBuf>,
    /// See there.
    pub keep_tree: bool,
    /// How many compilers to run at once. `None`: as many as the host has CPUs for us.
    pub jobs: Option<NonZeroUsize>,
}

/// A stock kernel that is ready to boot. All paths are in the cache and must not be modified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StockKernel {
    /// The kernel: an ELF file with symbols.
    pub vmlinux: PathBuf,
    /// The kernel's configuration.
    pub config: PathBuf,
    /// What `make` printed when the kernel was built.
    pub log: PathBuf,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// The Debian version of the source, or the name of the user's file.
    pub package: String,
    /// A short hash of the patches of the reference series. `None`: there are none of them in it.
    pub series: Option<String>,
    /// What modules are built against. `None`: the source is older than scripts/package/install-extmod-build.
    pub headers: Option<PathBuf>,
    /// The hash of everything that went into the kernel.
    pub key: String,
    /// Whether it was built by this call rather than found in the cache.
    pub fresh: bool,
}

impl StockKernel {
    /// What was done to its source, in a word or two.
    #[must_use]
    pub fn patches(&self) -> String {
        match &self.series {
            Some(series) => format!("series {series}"),
            None => "unpatched".to_owned(),
        }
    }
}

/// Builds the kernel unless it is in the cache.
///
/// # Errors
///
/// See [`GuestError`].
pub fn build(request: &StockRequest, progress: &dyn Progress) -> Result<StockKernel, GuestError> {
    build_at(&Places::find()?, request, progress)
}

/// The kernel if it is in the cache. Nothing is downloaded and no program started.
///
/// # Errors
///
/// See [`GuestError`].
pub fn cached(request: &StockRequest) -> Result<Option<StockKernel>, GuestError> {
    let places = Places::find()?;
    let store = Store::open(&places.cache)?;
    let Some(source) = recorded(&store, &request.version) else {
        return Ok(None);
    };
    let recipe = recipe(&store, &places, request, &source, &())?;
    let key = recipe.key(&recipe.series.key()?);
    let slot = store.find("kernel", key, &FILES)?;
    slot.map(finished).transpose()
}

/// The initramfs for a stock kernel: the agent, and the module if one can be built for it.
///
/// # Errors
///
/// See [`GuestError`].
pub fn initramfs(kernel: &StockKernel, progress: &dyn Progress) -> Result<Initramfs, GuestError> {
    let places = Places::find()?;
    let store = Store::open(&places.cache)?;
    let module = match &kernel.headers {
        Some(tree) => {
            let headers = Headers {
                tree: tree.clone(),
                slot: tree.parent().map(Path::to_owned),
                key: kernel.key.clone(),
                arguments: vec![],
            };
            Some(module::build(&store, &places, &headers, progress)?)
        }
        None => {
            progress.note(&format!(
                "linux {} gets no module: its source cannot pack what one is built against",
                kernel.package
            ));
            None
        }
    };
    let agent = agent::build(&store, &places, Init::Agent, progress)?;
    initramfs::build(&store, &agent, module.as_ref()).map(|built| Initramfs {
        fresh: agent.fresh || built.fresh,
        path: built.path,
        key: built.key,
    })
}

fn build_at(
    places: &Places,
    request: &StockRequest,
    progress: &dyn Progress,
) -> Result<StockKernel, GuestError> {
    let store = Store::open(&places.cache)?;
    let source = match &request.source {
        Some(path) => own(path, &request.version)?,
        None => find(&store, places, request, progress)?,
    };
    let recipe = recipe(&store, places, request, &source, progress)?;
    let extra = Patches::of(&request.extra_patches)?;
    let slot = kernel::build_by(&recipe, &extra, request.keep_tree, &FILES)?;
    finished(slot)
}

fn recipe<'a>(
    store: &'a Store,
    places: &Places,
    request: &StockRequest,
    source: &'a Source,
    progress: &'a dyn Progress,
) -> Result<Recipe<'a>, GuestError> {
    let version = &request.version[..];
    let (of, series) = if request.series {
        let patches = places.guest.join("kernel/patches");
        (Configuration::Patched, series(&patches, version)?)
    } else {
        (Configuration::Stock, Patches::of(&[])?)
    };
    Ok(Recipe {
        store,
        source,
        series,
        fragments: Fragments::read(&places.guest.join("kernel/config"), of)?.of_version(version)?,
        jobs: request.jobs,
        earlier_steps: earlier_steps(&store.stage_dir("kernel"), of),
        progress,
    })
}

/// The reference series for a version; `patches` has a directory for each.
fn series(patches: &Path, version: &str) -> Result<Patches, GuestError> {
    let dir = patches.join(version);
    if dir.join("series").is_file() {
        return Patches::series(&dir);
    }
    let entries = fs::read_dir(patches).map_err(GuestError::io("list", patches))?;
    let mut versions: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join("series").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    versions.sort();
    Err(GuestError::NoSeries {
        version: version.to_owned(),
        versions,
        dir: patches.to_owned(),
    })
}

pub(crate) fn finished(slot: Slot) -> Result<StockKernel, GuestError> {
    let Slot { dir, key, fresh } = slot;
    let manifest = read_manifest(&dir)?;
    let headers = dir.join("tree");
    let patched = manifest.flavour == Configuration::Patched;
    Ok(StockKernel {
        series: patched.then_some(manifest.series),
        vmlinux: dir.join("vmlinux"),
        config: dir.join("config"),
        log: dir.join("build.log"),
        release: manifest.release,
        package: manifest.package,
        headers: headers.join("Module.symvers").exists().then_some(headers),
        key: key.to_string(),
        fresh,
    })
}

/// The package that was downloaded last. Goes to the network when there is none, or to update.
fn find(
    store: &Store,
    places: &Places,
    request: &StockRequest,
    progress: &dyn Progress,
) -> Result<Source, GuestError> {
    let version = &request.version[..];
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-".contains(c);
    if version.is_empty()
        || !version.chars().all(plain)
        || !version.starts_with(|c: char| c.is_ascii_digit())
    {
        let version = version.to_owned();
        return Err(GuestError::BadVersion { version });
    }
    if let (false, Some(source)) = (request.update, recorded(store, version)) {
        return Ok(source);
    }
    let list = places.guest.join("kernel/stock/pool");
    let text = fs::read_to_string(&list).map_err(GuestError::io("read", &list))?;
    let pool = pool(&text).map_err(|(line, reason)| GuestError::BadPool {
        path: list.clone(),
        line,
        reason,
    })?;
    let _lock = store.lock("source", "kernel source", progress)?;
    let log = store.log(&format!("source-{version}"));
    let source = match source::newest(&name(version), store, &log, request.update, progress) {
        Ok(source) => source,
        Err(error @ GuestError::NoSource { .. }) => {
            let listed = pool.into_iter().find(|source| source.name == name(version));
            listed.ok_or(error)?
        }
        Err(error) => return Err(error),
    };
    match source.download(store, &log, progress) {
        Ok(_) => {}
        Err(GuestError::Store(StoreError::Failed { .. })) if source.pool.is_some() => {
            let advice = format!(
                "version {} is no longer in Debian's pool, or it cannot be reached ({}); give another \
                 package or tarball with --source FILE, or put the version that is there now into {}",
                source.package,
                log.display(),
                list.display()
            );
            return Err(source::no_source(&source.name, &advice));
        }
        Err(error) => return Err(error),
    }
    source.write(&record(store, version))?;
    Ok(source)
}

fn record(store: &Store, version: &str) -> PathBuf {
    store.source().join(format!("stock-{version}.json"))
}

fn recorded(store: &Store, version: &str) -> Option<Source> {
    Source::read(&record(store, version))
}

/// A file of the user's.
fn own(path: &Path, version: &str) -> Result<Source, GuestError> {
    let path = std::path::absolute(path).map_err(GuestError::io("find", path))?;
    let bad = |reason| GuestError::BadSource {
        path: path.clone(),
        reason,
    };
    let file = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let file = file.ok_or_else(|| bad("is no file"))?;
    let metadata = fs::metadata(&path).map_err(|_| bad("there is no such file"))?;
    if metadata.is_dir() {
        return Err(bad(
            "is a directory: build it yourself and give the vmlinux with --kernel, or pack it with tar",
        ));
    }
    if !(file.ends_with(".deb") || file.contains(".tar")) {
        return Err(bad("is neither a .deb nor a tarball"));
    }
    let mut hash = Sha256::new();
    let unreadable = || GuestError::io("read", &path);
    let mut content = BufReader::with_capacity(1 << 20, File::open(&path).map_err(unreadable())?);
    loop {
        let part = content.fill_buf().map_err(unreadable())?;
        if part.is_empty() {
            break;
        }
        hash.update(part);
        let length = part.len();
        content.consume(length);
    }
    let digest = hash.finalize();
    let sha256 = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Source {
        name: name(version),
        pool: None,
        own: Some(Own::File(path.clone())),
        package: file.clone(),
        file,
        sha256,
        size: metadata.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    /// A guest directory with a stock configuration, and a cache that has the package of `version`.
    fn fake(version: &str) -> Fake {
        let fake = Fake::new();
        fake.write("kernel/config/deferral.config", "CONFIG_DEFERRAL=y\n");
        fake.write("kernel/config/stock/stock.config", "CONFIG_S=y\n");
        fake.write(
            &format!("kernel/config/stock/{version}.config"),
            "CONFIG_V=y\n",
        );
        fake.write("kernel/config/stock/0.1.config", "CONFIG_NOT_ASKED_FOR=y\n");
        fake.write("kernel/stock/pool", "# nothing\n");
        let source = Source {
            package: "7.2.0-1".to_owned(),
            ..fake.source.clone()
        };
        source
            .write(&record(&fake.store, version))
            .expect("recorded");
        fake
    }

    fn request(version: &str) -> StockRequest {
        StockRequest {
            version: version.to_owned(),
            ..StockRequest::default()
        }
    }

    #[test]
    fn stock_kernel_is_built_once_without_the_series() {
        let fake = fake("7.2");
        // A patch that would fail to apply.
        fake.write("kernel/patches/6.12/bad.patch", "not a patch");
        fake.write("kernel/patches/6.12/series", "bad.patch\n");
        let built = build_at(&fake.places, &request("7.2"), &()).expect("built");
        assert_eq!((&built.package[..], built.fresh), ("7.2.0-1", true));
        let config = fs::read_to_string(&built.config).expect("read");
        assert!(
            config.starts_with("CONFIG_A=y\n\nCONFIG_S=y\n\nCONFIG_V=y\n"),
            "{config}"
        );
        let again = build_at(&fake.places, &request("7.2"), &()).expect("found");
        assert_eq!((again.vmlinux, again.fresh), (built.vmlinux, false));
    }

    #[test]
    fn a_series_is_that_of_the_version_and_its_switch_must_survive() {
        let fake = fake("7.2");
        let with_series = |version| StockRequest {
            series: true,
            ..request(version)
        };
        let build = |version| build_at(&fake.places, &with_series(version), &());
        fake.write("kernel/patches/6.12/series", "# none\n");
        let error = build("7.2").expect_err("there is none").to_string();
        assert!(error.ends_with("kernel/patches, but for 6.12"), "{error}");
        fake.write("kernel/patches/7.2/series", "# none yet\n");
        let built = build("7.2").expect("built");
        assert!(built.patches().starts_with("series "), "{built:?}");
        let config = fs::read_to_string(&built.config).expect("read");
        let asked = "CONFIG_A=y\n\nCONFIG_DEFERRAL=y\n\nCONFIG_S=y\n\nCONFIG_V=y\n";
        assert!(config.starts_with(asked), "{config}");
        // Another kernel than the one without.
        let without = build_at(&fake.places, &request("7.2"), &()).expect("built");
        assert_eq!((without.fresh, &without.patches()[..]), (true, "unpatched"));
        fake.write("kernel/config/deferral.config", "CONFIG_UNKNOWN=y\n");
        let lost = build("7.2").expect_err("its switch is lost").to_string();
        assert!(lost.contains("CONFIG_UNKNOWN"), "{lost}");
    }

    #[test]
    fn what_is_no_source_is_refused_before_anything_is_run() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("notes.txt");
        fs::write(&file, "x").expect("written");
        let said = |path: &Path| own(path, "7.2").expect_err("refused").to_string();
        assert!(said(&file).ends_with("is neither a .deb nor a tarball"));
        assert!(said(dir.path()).contains("give the vmlinux with --kernel"));
        assert!(said(&dir.path().join("missing.deb")).ends_with("there is no such file"));
        let fake = fake("7.2");
        let error = build_at(&fake.places, &request("../7.2"), &()).expect_err("refused");
        assert!(
            error.to_string().contains("a version is numbers"),
            "{error}"
        );
    }

    #[test]
    fn own_file_is_known_by_what_is_in_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("linux-7.3.tar.gz");
        fs::write(&file, "abc").expect("written");
        let source = own(&file, "7.3").expect("taken");
        assert_eq!(
            (&source.sha256[..], &source.package[..]),
            (
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "linux-7.3.tar.gz"
            )
        );
    }
}
