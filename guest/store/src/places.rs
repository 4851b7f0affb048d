//! Where the guest's sources are and where results go.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::StoreError;
use crate::embedded::{self, Embedded};

/// The directories that a build reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The `guest` directory of an ipirig checkout: kernel patches and configuration, module,
    /// agent. Its parent is the Cargo workspace that the agent is built from.
    pub guest: PathBuf,
    /// Where downloads and results are kept. Created when missing.
    pub cache: PathBuf,
    /// The agent, where the program has one inside: then `guest` has what else was inside, and is
    /// in the cache. `None` in a checkout, where the agent is built.
    pub agent: Option<PathBuf>,
}

impl Places {
    /// Reads the environment: `IPIRIG_GUEST_DIR`, else the checkout this program was built from, if it is
    /// still in there or has nothing inside, else what is [inside](Embedded) it, unpacked into the cache;
    /// `IPIRIG_CACHE_DIR`, else `ipirig` in `XDG_CACHE_HOME` or in `~/.cache`.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoGuestDir`] and [`StoreError::NoCacheDir`]; those of the cache where something is unpacked.
    pub fn find() -> Result<Self, StoreError> {
        let program = Program {
            // What cannot say where it is, is not in its checkout.
            path: std::env::current_exe().unwrap_or_default(),
            embedded: Embedded::provided(),
        };
        Self::from_vars(|name| std::env::var_os(name), &program)
    }

    fn from_vars(
        var: impl Fn(&str) -> Option<OsString>,
        program: &Program,
    ) -> Result<Self, StoreError> {
        let cache = cache_from_vars(&var);
        let given = path(&var, "IPIRIG_GUEST_DIR");
        if let (None, Some(embedded)) = (&given, program.embedded_if_away()) {
            let cache = cache?;
            let root = embedded.unpack(&cache)?;
            return Ok(Self {
                guest: root.join(embedded::GUEST),
                cache,
                agent: Some(root.join(embedded::AGENT)),
            });
        }
        let guest = match given {
            Some(dir) => absolute(dir)?,
            // `guest/store/..`, without the dots.
            None => match Path::new(env!("CARGO_MANIFEST_DIR")).parent() {
                Some(dir) => dir.to_owned(),
                None => {
                    return Err(StoreError::NoGuestDir {
                        path: PathBuf::new(),
                    });
                }
            },
        };
        if !guest.join("kernel").is_dir() {
            return Err(StoreError::NoGuestDir { path: guest });
        }
        Ok(Self {
            guest,
            cache: cache?,
            agent: None,
        })
    }

    /// The cache alone: a program that is away from its checkout has one as well.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoCacheDir`].
    pub fn find_cache() -> Result<PathBuf, StoreError> {
        cache_from_vars(&|name| std::env::var_os(name))
    }

    /// The Cargo workspace that holds the agent.
    pub fn workspace(&self) -> &Path {
        self.guest.parent().unwrap_or(&self.guest)
    }
}

/// The program that this is.
struct Program {
    path: PathBuf,
    embedded: Option<Embedded>,
}

impl Program {
    /// What is inside it, if it is not in the checkout that it was built from: an installed program goes
    /// with the sources that it was built with, whatever has become of those since.
    fn embedded_if_away(&self) -> Option<Embedded> {
        let store = Path::new(env!("CARGO_MANIFEST_DIR"));
        let checkout = store.ancestors().nth(2).unwrap_or(store);
        let checkout = checkout.canonicalize();
        let at_home = checkout.is_ok_and(|checkout| self.path.starts_with(checkout));
        self.embedded.filter(|_| !at_home)
    }
}

/// A variable that says something.
fn path(var: &impl Fn(&str) -> Option<OsString>, name: &str) -> Option<PathBuf> {
    var(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn absolute(path: PathBuf) -> Result<PathBuf, StoreError> {
    std::path::absolute(&path).map_err(StoreError::io("find", path))
}

fn cache_from_vars(var: &impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, StoreError> {
    // The XDG base directory specification: a relative path is to be ignored.
    let xdg = path(var, "XDG_CACHE_HOME").filter(|dir| dir.is_absolute());
    match (path(var, "IPIRIG_CACHE_DIR"), xdg, path(var, "HOME")) {
        (Some(dir), _, _) => absolute(dir),
        (None, Some(dir), _) => Ok(dir.join("ipirig")),
        (None, None, Some(home)) => Ok(absolute(home)?.join(".cache/ipirig")),
        (None, None, None) => Err(StoreError::NoCacheDir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(vars: &[(&str, &str)]) -> Result<Places, StoreError> {
        find_by(
            vars,
            &Program {
                path: "/usr/bin/ipirig".into(),
                embedded: None,
            },
        )
    }

    fn find_by(vars: &[(&str, &str)], program: &Program) -> Result<Places, StoreError> {
        let var = |name: &str| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Places::from_vars(var, program)
    }

    fn embedded() -> Option<Embedded> {
        let files = [
            ("guest/kernel/a", 0o644, "text"),
            (embedded::AGENT, 0o755, "agent"),
        ];
        Some(Embedded::of(embedded::tests::archive(&files)))
    }

    fn cache(vars: &[(&str, &str)]) -> PathBuf {
        find(vars)
            .expect("the checkout has a guest directory")
            .cache
    }

    #[test]
    fn own_cache_variable_comes_first() {
        let vars = [
            ("IPIRIG_CACHE_DIR", "/a"),
            ("XDG_CACHE_HOME", "/b"),
            ("HOME", "/c"),
        ];
        assert_eq!(cache(&vars), Path::new("/a"));
    }

    #[test]
    fn xdg_cache_home_comes_before_home() {
        assert_eq!(
            cache(&[("XDG_CACHE_HOME", "/b"), ("HOME", "/c")]),
            Path::new("/b/ipirig")
        );
        assert_eq!(cache(&[("HOME", "/c")]), Path::new("/c/.cache/ipirig"));
    }

    #[test]
    fn relative_xdg_and_empty_variables_are_ignored() {
        let vars = [
            ("IPIRIG_CACHE_DIR", ""),
            ("XDG_CACHE_HOME", "rel"),
            ("HOME", "/c"),
        ];
        assert_eq!(cache(&vars), Path::new("/c/.cache/ipirig"));
    }

    #[test]
    fn relative_cache_variable_is_taken_from_the_current_directory() {
        let here = std::env::current_dir().expect("a current directory");
        assert_eq!(cache(&[("IPIRIG_CACHE_DIR", "rel")]), here.join("rel"));
    }

    #[test]
    fn no_variable_at_all_is_an_error_that_names_them() {
        let error = find(&[]).expect_err("no place for a cache");
        assert_eq!(
            error.to_string(),
            "no cache directory: set IPIRIG_CACHE_DIR, XDG_CACHE_HOME or HOME"
        );
    }

    #[test]
    fn guest_directory_defaults_to_the_checkout() {
        let guest = find(&[("HOME", "/c")]).expect("found").guest;
        assert_eq!(guest.join("store"), Path::new(env!("CARGO_MANIFEST_DIR")));
    }

    #[test]
    fn a_cache_needs_no_guest_directory() {
        let vars = [("IPIRIG_GUEST_DIR", "/nonexistent"), ("HOME", "/c")];
        let var = |name: &str| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| OsString::from(value))
        };
        let cache = cache_from_vars(&var).expect("found");
        assert_eq!(cache, Path::new("/c/.cache/ipirig"));
        let error = cache_from_vars(&|_| None).expect_err("no place for a cache");
        assert!(matches!(error, StoreError::NoCacheDir), "{error}");
    }

    #[test]
    fn wrong_guest_directory_is_an_error_that_names_it() {
        let error =
            find(&[("IPIRIG_GUEST_DIR", "/nonexistent"), ("HOME", "/c")]).expect_err("not there");
        assert_eq!(
            error.to_string(),
            "no guest sources at /nonexistent: set IPIRIG_GUEST_DIR to the `guest` directory of \
             an ipirig checkout, or install a release build, which has them inside"
        );
    }

    #[test]
    fn an_installed_program_has_its_sources_and_its_agent_from_inside() {
        let dir = tempfile::tempdir().expect("a directory");
        let cache = dir.path().to_str().expect("text");
        let program = Program {
            path: "/usr/bin/ipirig".into(),
            embedded: embedded(),
        };
        let found = find_by(&[("IPIRIG_CACHE_DIR", cache)], &program).expect("found");
        let root = found.workspace().to_owned();
        assert_eq!(
            found,
            Places {
                guest: root.join("guest"),
                cache: dir.path().to_owned(),
                agent: Some(root.join("agent/ipirig-agent")),
            }
        );
        assert_eq!(root.parent(), Some(&*dir.path().join("sources")));
    }

    #[test]
    fn the_checkout_wins_where_the_program_is_in_it_and_so_does_the_variable() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2);
        let checkout = checkout.expect("a checkout");
        let guest = checkout.join("guest");
        let at = |path: &Path| Program {
            path: path.to_owned(),
            embedded: embedded(),
        };
        let canonical = checkout.canonicalize().expect("there");
        let in_it = at(&canonical.join("target/release/ipirig"));
        let away = at(Path::new("/usr/bin/ipirig"));
        let vars = [
            ("IPIRIG_CACHE_DIR", "/nonexistent"),
            ("IPIRIG_GUEST_DIR", guest.to_str().expect("text")),
        ];
        let places = Places {
            guest: guest.clone(),
            cache: "/nonexistent".into(),
            agent: None,
        };
        assert_eq!(find_by(&vars[..1], &in_it).expect("found"), places);
        assert_eq!(find_by(&vars, &away).expect("found"), places);
    }
}
