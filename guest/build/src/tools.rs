//! The programs and headers that a kernel build needs on the host.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::{GuestError, Progress};
use ipirig_store::Program;

/// Something to look for, and the Debian package that has it.
struct Need {
    what: &'static str,
    package: &'static str,
}

/// Searched for in `PATH`. Essential packages (tar, coreutils, grep, sed, findutils, diffutils,
/// dpkg) are taken for granted. `bc` makes `timeconst.h`; `flex` and `bison` make Kconfig.
const PROGRAMS: [Need; 9] = [
    Need {
        what: "make",
        package: "make",
    },
    Need {
        what: "gcc",
        package: "gcc",
    },
    Need {
        what: "ld",
        package: "binutils",
    },
    Need {
        what: "flex",
        package: "flex",
    },
    Need {
        what: "bison",
        package: "bison",
    },
    Need {
        what: "bc",
        package: "bc",
    },
    Need {
        what: "awk",
        package: "mawk",
    },
    Need {
        what: "patch",
        package: "patch",
    },
    Need {
        what: "xz",
        package: "xz-utils",
    },
];

/// Header files: for host programs at all, and for objtool.
const HEADERS: [Need; 2] = [
    Need {
        what: "/usr/include/stdio.h",
        package: "libc6-dev",
    },
    Need {
        what: "/usr/include/gelf.h",
        package: "libelf-dev",
    },
];

/// Makes sure that a kernel can be built here: as root on Debian, installs what is missing, if that is
/// allowed.
pub(crate) fn ensure(log: &Path, progress: &dyn Progress) -> Result<(), GuestError> {
    let path = env::var_os("PATH").unwrap_or_default();
    let missing = missing(&path, Path::new("/"));
    if missing.is_empty() {
        return Ok(());
    }
    let can_install = is_root() && is_debian();
    let packages = allowed(&missing, can_install, progress)?;
    refresh_lists(log, progress, false)?;
    progress.note(&format!("installing {} with apt-get", packages.join(", ")));
    Program::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--no-install-recommends"])
        .args(packages)
        .run("installing build tools", log, |_| {})?;
    let still = self::missing(&path, Path::new("/"));
    if still.is_empty() {
        Ok(())
    } else {
        Err(missing_error(&still))
    }
}

/// The packages to install for what is missing, if they can be installed and may be; else the error has the
/// command that does it.
fn allowed(
    missing: &[&Need],
    can_install: bool,
    progress: &dyn Progress,
) -> Result<Vec<&'static str>, GuestError> {
    let packages = packages(missing);
    if can_install && progress.may_install(&packages) {
        Ok(packages)
    } else {
        Err(missing_error(missing))
    }
}

/// Runs `apt-get update` when there are no package lists, or when they are to be `renewed`.
/// Only root may; for others this does nothing.
pub(crate) fn refresh_lists(
    log: &Path,
    progress: &dyn Progress,
    renewed: bool,
) -> Result<(), GuestError> {
    if !is_root() || (!renewed && have_lists(Path::new("/var/lib/apt/lists"))) {
        return Ok(());
    }
    progress.note("running apt-get update");
    Program::new("apt-get")
        .arg("update")
        .run("renewing the package lists", log, |_| {})?;
    Ok(())
}

/// Whether apt knows of any package.
pub(crate) fn have_lists(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

pub(crate) fn is_root() -> bool {
    // The owner of /proc/self is the effective user: proc(5).
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

pub(crate) fn is_debian() -> bool {
    Path::new("/etc/debian_version").exists() && Path::new("/usr/bin/apt-get").exists()
}

/// What is missing among the directories of `path` and, for headers, below `root`.
fn missing(path: &OsStr, root: &Path) -> Vec<&'static Need> {
    let dirs: Vec<PathBuf> = env::split_paths(path).collect();
    let runnable = |file: PathBuf| {
        fs::metadata(file)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    let programs = PROGRAMS
        .iter()
        .filter(|need| !dirs.iter().any(|dir| runnable(dir.join(need.what))));
    let headers = HEADERS
        .iter()
        .filter(|need| !root.join(need.what.trim_start_matches('/')).exists());
    programs.chain(headers).collect()
}

fn packages(missing: &[&Need]) -> Vec<&'static str> {
    let mut packages: Vec<_> = missing.iter().map(|need| need.package).collect();
    packages.sort_unstable();
    packages.dedup();
    packages
}

fn missing_error(missing: &[&Need]) -> GuestError {
    let sudo = if is_root() { "" } else { "sudo " };
    GuestError::MissingTools {
        tools: missing.iter().map(|need| need.what.to_owned()).collect(),
        command: format!(
            "{sudo}apt-get install --yes --no-install-recommends {}",
            packages(missing).join(" ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(missing: &[&Need]) -> Vec<&'static str> {
        missing.iter().map(|need| need.what).collect()
    }

    #[test]
    fn nothing_is_missing_where_everything_is() {
        let root = tempfile::tempdir().expect("a directory");
        let bin = root.path().join("bin");
        fs::create_dir_all(&bin).expect("created");
        fs::create_dir_all(root.path().join("usr/include")).expect("created");
        for need in &PROGRAMS {
            let file = bin.join(need.what);
            fs::write(&file, "").expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).expect("set");
        }
        for need in &HEADERS {
            fs::write(root.path().join(&need.what[1..]), "").expect("written");
        }
        assert_eq!(
            names(&missing(bin.as_os_str(), root.path())),
            Vec::<&str>::new()
        );

        // Not executable is as good as not there.
        fs::set_permissions(bin.join("bc"), fs::Permissions::from_mode(0o644)).expect("set");
        fs::remove_file(root.path().join("usr/include/gelf.h")).expect("removed");
        let missing = missing(bin.as_os_str(), root.path());
        assert_eq!(names(&missing), ["bc", "/usr/include/gelf.h"]);
        let sudo = if is_root() { "" } else { "sudo " };
        assert_eq!(
            missing_error(&missing).to_string(),
            format!(
                "building the guest needs bc, /usr/include/gelf.h: run `{sudo}apt-get install \
                 --yes --no-install-recommends bc libelf-dev`"
            )
        );
    }

    /// Whoever builds, and what is said when asked for packages.
    struct Consent(bool);

    impl Progress for Consent {
        fn stage(&self, _: &str) {}
        fn note(&self, _: &str) {}
        fn step(&self, _: u64, _: Option<u64>) {}
        fn may_install(&self, packages: &[&str]) -> bool {
            assert_eq!(packages, ["bc", "make"]);
            self.0
        }
    }

    #[test]
    fn nothing_is_installed_that_was_not_allowed_and_the_error_has_the_command() {
        let missing: Vec<&Need> = PROGRAMS
            .iter()
            .filter(|need| ["make", "bc"].contains(&need.what))
            .collect();
        let ask = |can_install, says| {
            let packages = allowed(&missing, can_install, &Consent(says));
            packages.map_err(|error| error.to_string())
        };
        assert_eq!(ask(true, true), Ok(vec!["bc", "make"]));
        for (can_install, says) in [(true, false), (false, true)] {
            let error = ask(can_install, says).expect_err("nobody allowed it");
            let command = "apt-get install --yes --no-install-recommends bc make`";
            assert!(error.ends_with(command), "{error}");
        }
        // Who was not asked has not said yes.
        assert!(!().may_install(&["make"]));
    }

    #[test]
    fn empty_path_misses_every_program() {
        let root = tempfile::tempdir().expect("a directory");
        let missing = missing(OsStr::new(""), root.path());
        assert_eq!(missing.len(), PROGRAMS.len() + HEADERS.len());
    }

    #[test]
    fn package_lists_are_seen() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(!have_lists(dir.path()));
        assert!(!have_lists(&dir.path().join("nonexistent")));
        fs::write(dir.path().join("lock"), "").expect("written");
        assert!(!have_lists(dir.path()));
        let list = "mirror.example_debian_dists_bookworm_main_binary-amd64_Packages.lz4";
        fs::write(dir.path().join(list), "").expect("written");
        assert!(have_lists(dir.path()));
    }
}
