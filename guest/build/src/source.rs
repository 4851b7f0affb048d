//! The kernel source: a Debian package that `apt-get download` fetches without root.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::git::GitTree;
use crate::{GuestError, Progress, tools};
use ipirig_store::{Program, Store, StoreError, make_dir, remove_dir, write_json};

/// The package. Its last part is the stable series that `guest/kernel/patches` is for.
const PACKAGE: &str = "linux-source-6.12";

/// apt's own way to fetch a file and compare its hash. Not in the PATH.
const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

/// How often the size of a growing download is looked at.
const POLL: Duration = Duration::from_millis(200);

/// What has been downloaded, or could be again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// The package's name.
    pub(crate) name: String,
    /// Where it is below the root of a mirror of Debian, if apt does not know.
    pub(crate) pool: Option<String>,
    /// What the user has instead of a package. Of such nothing is recorded.
    pub(crate) own: Option<Own>,
    /// The file's name in the source directory.
    pub(crate) file: String,
    /// The Debian version, for example `6.12.117-1~deb12u1`.
    pub(crate) package: String,
    /// The file's SHA-256 as the signed archive gives it; apt has compared it.
    pub(crate) sha256: String,
    /// The file's size in bytes.
    pub(crate) size: u64,
}

/// A source of the user's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Own {
    /// A package or a tarball.
    File(PathBuf),
    /// What is in a git tree.
    Git(GitTree),
}

/// The record of a package that has been downloaded, in the source directory.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Records from before there were others do not have it.
    #[serde(default = "reference")]
    name: String,
    #[serde(default)]
    pool: Option<String>,
    file: String,
    package: String,
    sha256: String,
    size: u64,
}

fn reference() -> String {
    PACKAGE.to_owned()
}

impl From<Record> for Source {
    fn from(record: Record) -> Self {
        Self {
            name: record.name,
            pool: record.pool,
            own: None,
            file: record.file,
            package: record.package,
            sha256: record.sha256,
            size: record.size,
        }
    }
}

impl From<&Source> for Record {
    fn from(source: &Source) -> Self {
        Self {
            name: source.name.clone(),
            pool: source.pool.clone(),
            file: source.file.clone(),
            package: source.package.clone(),
            sha256: source.sha256.clone(),
            size: source.size,
        }
    }
}

/// The source that was downloaded last. Goes to the network when there is none, or to `update`.
pub(crate) fn find(
    store: &Store,
    update: bool,
    progress: &dyn Progress,
) -> Result<Source, GuestError> {
    if let (false, Some(source)) = (update, Source::recorded(store)) {
        return Ok(source);
    }
    let _lock = store.lock("source", "kernel source", progress)?;
    // Whoever held the lock may have downloaded it.
    if let (false, Some(source)) = (update, Source::recorded(store)) {
        return Ok(source);
    }
    let log = store.log("source");
    let fetch = |renew| {
        let source = newest(PACKAGE, store, &log, renew, progress)?;
        source.download(store, &log, progress).map(|_| source)
    };
    let source = match fetch(update) {
        // Perhaps the package lists are out of date, which root can do something about.
        Err(GuestError::NoSource { .. } | GuestError::Store(StoreError::Failed { .. }))
            if !update && tools::is_root() && tools::is_debian() =>
        {
            fetch(true)?
        }
        other => other?,
    };
    source.record(store)?;
    Ok(source)
}

/// Asks apt which version it would download.
pub(crate) fn newest(
    name: &str,
    store: &Store,
    log: &Path,
    renew: bool,
    progress: &dyn Progress,
) -> Result<Source, GuestError> {
    if !tools::is_debian() {
        let advice = "this needs Debian's apt-get; elsewhere, bring a kernel with --kernel";
        return Err(no_source(name, advice));
    }
    tools::refresh_lists(log, progress, renew)?;
    let mut uris = None;
    let asked = Program::new("apt-get")
        .args(["--quiet", "--print-uris", "download", name])
        // apt says nothing about a package that is in the current directory already.
        .dir(&empty_partial(store)?)
        .run("asking for the kernel source", log, |line| {
            uris = uris.take().or_else(|| parse_uri(name, line));
        });
    match (asked, uris) {
        (Ok(()), Some(source)) => Ok(source),
        (Err(error @ (StoreError::Interrupted { .. } | StoreError::Spawn { .. })), _) => {
            Err(error.into())
        }
        _ if tools::have_lists(Path::new("/var/lib/apt/lists")) => Err(no_source(
            name,
            "apt does not know it; run `apt-get update` as root, and see that \
             /etc/apt/sources.list has the security archive",
        )),
        _ => Err(no_source(
            name,
            "apt has no package lists; run `apt-get update` as root",
        )),
    }
}

/// The mirror of Debian that apt is configured with, as `http://HOST/debian`.
fn mirror(name: &str, log: &Path) -> Result<String, GuestError> {
    let mut mirror = None;
    Program::new("apt-get")
        .args(["indextargets", "--format", "$(SITE)"])
        .args(["Created-By: Packages", "Origin: Debian", "Label: Debian"])
        .run("asking for the mirror of Debian", log, |line| {
            mirror = mirror.take().or_else(|| site(line));
        })?;
    mirror.ok_or_else(|| {
        no_source(
            name,
            "apt is not configured with a mirror of Debian's main archive, or has no package lists; give the \
             package with --source FILE",
        )
    })
}

/// A line of apt's answer, if it is an address.
fn site(line: &str) -> Option<String> {
    let site = line.trim().trim_end_matches('/');
    site.contains("://").then(|| site.to_owned())
}

/// Where to download to. Needs the lock `source`.
fn empty_partial(store: &Store) -> Result<PathBuf, GuestError> {
    let dir = store.source().join("partial");
    remove_dir(&dir)?;
    make_dir(&dir)?;
    Ok(dir)
}

pub(crate) fn no_source(package: &str, advice: &str) -> GuestError {
    GuestError::NoSource {
        package: package.to_owned(),
        advice: advice.to_owned(),
    }
}

/// Reads a line of `apt-get --print-uris`: `'URI' FILE SIZE SHA256:HEX`.
fn parse_uri(name: &str, line: &str) -> Option<Source> {
    let mut words = line.strip_prefix('\'')?.split_whitespace().skip(1);
    let file = words.next()?;
    let size = words.next()?.parse().ok()?;
    let sha256 = words.next()?.strip_prefix("SHA256:")?;
    let version = file
        .strip_prefix(name)?
        .strip_prefix('_')?
        .strip_suffix("_all.deb")?;
    // apt escapes the colon of an epoch.
    let package = version.replace("%3a", ":");
    let plain = !file.contains('/') && !sha256.is_empty();
    plain.then(|| Source {
        name: name.to_owned(),
        pool: None,
        own: None,
        file: file.to_owned(),
        package,
        sha256: sha256.to_owned(),
        size,
    })
}

impl Source {
    fn recorded(store: &Store) -> Option<Self> {
        Self::read(&store.source().join("current.json"))
    }

    fn record(&self, store: &Store) -> Result<(), GuestError> {
        self.write(&store.source().join("current.json"))
    }

    /// What the record at `path` says. One that cannot be read is as good as none: it is made again.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        Some(record.into())
    }

    /// Records it at `path`.
    pub(crate) fn write(&self, path: &Path) -> Result<(), GuestError> {
        Ok(write_json(path, &Record::from(self))?)
    }

    /// The package itself, downloaded again if it was removed.
    pub(crate) fn deb(
        &self,
        store: &Store,
        log: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, GuestError> {
        if let Some(Own::File(own)) = &self.own {
            return Ok(own.clone());
        }
        let _lock = store.lock("source", "kernel source", progress)?;
        self.download(store, log, progress)
    }

    /// Needs the lock `source`.
    pub(crate) fn download(
        &self,
        store: &Store,
        log: &Path,
        progress: &dyn Progress,
    ) -> Result<PathBuf, GuestError> {
        let deb = store.source().join(&self.file);
        match store.sha256(&deb)? {
            Some(found) if found == self.sha256 => return Ok(deb),
            Some(_) => progress.note(&format!("{} is not what was downloaded", deb.display())),
            None => {}
        }
        progress.stage(&format!("downloading {} {}", self.name, self.package));
        let dir = empty_partial(store)?;
        let part = dir.join(&self.file);
        let address = match &self.pool {
            None => None,
            Some(place) => Some(format!("{}/{place}", mirror(&self.name, log)?)),
        };
        let program = match address {
            None => "apt-get",
            Some(_) => APT_HELPER,
        };
        let mut apt = Program::new(program).dir(&dir);
        if tools::is_root() {
            // Its own user may not write into our directory; apt would warn and go on as root.
            apt = apt.args(["--option", "APT::Sandbox::User=root"]);
        }
        let apt = match &address {
            None => apt
                .args(["--quiet", "download"])
                .arg(format!("{}={}", self.name, self.package)),
            Some(address) => apt
                .args(["download-file", address])
                .arg(&part)
                .arg(format!("SHA256:{}", self.sha256)),
        };
        let done = AtomicBool::new(false);
        let got = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let have = fs::metadata(&part).map_or(0, |meta| meta.len());
                    progress.step(have.min(self.size), Some(self.size));
                    thread::sleep(POLL);
                }
            });
            let got = apt.run("downloading the kernel source", log, |_| {});
            done.store(true, Ordering::Relaxed);
            got
        });
        got?;
        let have = fs::metadata(&part).map_or(0, |meta| meta.len());
        if have != self.size {
            return Err(StoreError::Product {
                path: part,
                reason: format!("has {have} bytes instead of {}", self.size),
                log: log.to_owned(),
            }
            .into());
        }
        // apt has compared the hash.
        fs::rename(&part, &deb).map_err(GuestError::io("create", &deb))?;
        Ok(deb)
    }
}

#[cfg(test)]
impl Source {
    /// A package that is in the store already.
    pub(crate) fn fake(store: &Store, deb: &Path, package: &str) -> Self {
        let file = "fake.deb".to_owned();
        let copy = store.source().join(&file);
        fs::copy(deb, &copy).expect("copied");
        let sha256 = store.sha256(&copy).expect("readable").expect("there");
        let size = fs::metadata(deb).expect("there").len();
        let source = Self {
            name: reference(),
            pool: None,
            own: None,
            file,
            package: package.to_owned(),
            sha256,
            size,
        };
        source.record(store).expect("recorded");
        source
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "'http://mirror.example/debian-security/pool/updates/main/l/linux-6.12/\
        linux-source-6.12_6.12.117-1%7edeb12u1_all.deb' \
        linux-source-6.12_6.12.117-1~deb12u1_all.deb 153476148 SHA256:e849faf3";

    #[test]
    fn answer_of_apt_is_read() {
        let expected = Source {
            name: PACKAGE.to_owned(),
            pool: None,
            own: None,
            file: "linux-source-6.12_6.12.117-1~deb12u1_all.deb".to_owned(),
            package: "6.12.117-1~deb12u1".to_owned(),
            sha256: "e849faf3".to_owned(),
            size: 153_476_148,
        };
        assert_eq!(parse_uri(PACKAGE, LINE), Some(expected));
    }

    #[test]
    fn other_lines_of_apt_are_passed_over() {
        let others = [
            "",
            "E: Unable to locate package linux-source-6.12",
            "'http://x/linux-source-6.13_6.13_all.deb' linux-source-6.13_6.13_all.deb 1 SHA256:a",
            "'http://x/y' linux-source-6.12_1_all.deb many SHA256:a",
            "'http://x/y' linux-source-6.12_../../1_all.deb 1 SHA256:a",
            "'http://x/y' linux-source-6.12_1_all.deb 1 MD5Sum:a",
        ];
        for line in others {
            assert_eq!(parse_uri(PACKAGE, line), None, "{line}");
        }
    }

    #[test]
    fn a_mirror_is_an_address_and_not_what_apt_complains_of() {
        assert_eq!(
            site("http://mirror.example/debian/\n"),
            Some("http://mirror.example/debian".to_owned())
        );
        assert_eq!(site("W: Unable to read sources.list"), None);
    }

    #[test]
    fn recorded_source_is_found_without_the_network() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("opened");
        assert_eq!(Source::recorded(&store), None);
        let deb = dir.path().join("x.deb");
        fs::write(&deb, "content").expect("written");
        let source = Source::fake(&store, &deb, "1.2-3");
        assert_eq!(find(&store, false, &()).expect("found"), source);
        let again = source
            .deb(&store, &store.log("source"), &())
            .expect("there");
        assert_eq!(fs::read(again).expect("readable"), b"content");
        // Nothing was run.
        assert!(!store.log("source").exists());
    }
}
