//! What can go wrong between a build and its cache.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use crate::Distrust;

/// Why a stage was not found, or did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory with patches, configuration, module and agent is not there.
    #[error(
        "no guest sources at {}: set IPIRIG_GUEST_DIR to the `guest` directory of an ipirig checkout, or \
         install a release build, which has them inside",
        path.display()
    )]
    NoGuestDir {
        /// Where they were looked for.
        path: PathBuf,
    },

    /// Neither a cache directory nor a home is known.
    #[error("no cache directory: set IPIRIG_CACHE_DIR, XDG_CACHE_HOME or HOME")]
    NoCacheDir,

    /// The cache directory's name holds something that Kbuild cannot cope with.
    #[error(
        "cannot build a kernel under {}: make does not take spaces, colons, quotes, `#`, `$`, `%` \
         or `\\` in a path; set IPIRIG_CACHE_DIR to another directory",
        path.display()
    )]
    AwkwardCacheDir {
        /// The cache directory.
        path: PathBuf,
    },

    /// Somebody else can have written something in the cache. It is left alone.
    #[error("not using {}", path.display())]
    NotTrusted {
        /// The file or directory.
        path: PathBuf,
        /// Why it is not believed.
        #[source]
        source: Distrust,
    },

    /// A finished stage that something is to be built from is not what was built.
    #[error("{what} in {}: remove that directory to have it built again", path.display())]
    Changed {
        /// The stage's directory.
        path: PathBuf,
        /// What is wrong: "vmlinux is not what was built".
        what: String,
    },

    /// A file or directory could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb: `read`, `create`.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// Something is to be built in an emulated host.
    #[error(
        "the {stage} is not in the cache, and nothing is built in an emulated host ({host}): run \
         `ipirig guest build` (with --flavour tracing, or `ipirig guest path --patch FILE`) outside first"
    )]
    InLab {
        /// What is missing: kernel, module, agent.
        stage: String,
        /// What the host has, `svm` or `vmx`.
        host: String,
    },

    /// A program could not be started.
    #[error("cannot start `{program}`")]
    Spawn {
        /// The program's name.
        program: String,
        /// Why it did not start.
        #[source]
        source: io::Error,
    },

    /// A program was ended by a signal that a user sends, such as Ctrl-C.
    #[error("interrupted while {what}")]
    Interrupted {
        /// The stage that was under way.
        what: String,
    },

    /// A program ran and failed.
    #[error("{what} failed ({status}); the full log is {}\n{excerpt}", log.display())]
    Failed {
        /// The stage that failed.
        what: String,
        /// How the program ended.
        status: ExitStatus,
        /// Everything it printed.
        log: PathBuf,
        /// The last lines that are not mere progress.
        excerpt: String,
    },

    /// A program ended well, and what it should have made is not as it must be.
    #[error("{}: {reason}; the full log is {}", path.display(), log.display())]
    Product {
        /// The file that is wrong or missing.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What the program printed.
        log: PathBuf,
    },
}

/// Whose move it is after a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// What the user gave is wrong: patches, configuration, directories.
    Input,
    /// The host lacks something that can be installed or freed.
    Host,
    /// The build itself failed.
    Build,
    /// The user stopped it.
    Interrupt,
}

impl StoreError {
    /// Sorts the error for an exit code.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoGuestDir { .. }
            | Self::NoCacheDir
            | Self::AwkwardCacheDir { .. }
            | Self::NotTrusted { .. } => ErrorClass::Input,
            Self::Spawn { .. } | Self::InLab { .. } | Self::Io { .. } | Self::Changed { .. } => {
                ErrorClass::Host
            }
            Self::Failed { .. } | Self::Product { .. } => ErrorClass::Build,
            Self::Interrupted { .. } => ErrorClass::Interrupt,
        }
    }

    /// For `map_err`: an [`Io`](Self::Io) error of `action` on `path`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
