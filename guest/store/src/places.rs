//! Where the guest's sources are and where results go.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The directories that a build reads and writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// The `guest` directory of an ipirig checkout: kernel patches and configuration, module,
    /// agent. Its parent is the Cargo workspace that the agent is built from.
    pub guest: PathBuf,
    /// Where downloads and results are kept. Created when missing.
    pub cache: PathBuf,
}

impl Places {
    /// Reads the environment: `IPIRIG_GUEST_DIR`, else the checkout this program was built from;
    /// `IPIRIG_CACHE_DIR`, else `ipirig` in `XDG_CACHE_HOME` or in `~/.cache`.
    ///
    /// # Errors
    ///
    /// [`StoreError::NoGuestDir`] and [`StoreError::NoCacheDir`].
    pub fn find() -> Result<Self, StoreError> {
        Self::from_vars(|name| std::env::var_os(name))
    }

    fn from_vars(var: impl Fn(&str) -> Option<OsString>) -> Result<Self, StoreError> {
        let guest = match path(&var, "IPIRIG_GUEST_DIR") {
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

        let cache = cache_from_vars(&var)?;
        Ok(Self { guest, cache })
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
        Places::from_vars(|name| {
            vars.iter()
                .find(|(n, _)| *n == name)
                .map(|(_, value)| OsString::from(value))
        })
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
             an ipirig checkout"
        );
    }
}
