//! Everything that can stop a guest from being built.

use std::fmt;
use std::io;
use std::path::PathBuf;

use ipirig_store::{ErrorClass, StoreError};

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// A stage was not found, or a program did not do its part.
    #[error(transparent)]
    Store(#[from] StoreError),

    /// Programs or headers that the build needs are not installed.
    #[error("building the guest needs {}: run `{command}`", tools.join(", "))]
    MissingTools {
        /// What is missing: program names and header files.
        tools: Vec<String>,
        /// One command that installs all of it.
        command: String,
    },

    /// The archive offers no kernel source.
    #[error("no {package} package to download: {advice}")]
    NoSource {
        /// The package asked for.
        package: String,
        /// What to do about it.
        advice: String,
    },

    /// There is no reference series for a version.
    #[error(
        "there is no reference series for Linux {version} in {}, but for {}",
        dir.display(),
        versions.join(", ")
    )]
    NoSeries {
        /// The version asked for.
        version: String,
        /// Those that there is one for.
        versions: Vec<String>,
        /// Where they are.
        dir: PathBuf,
    },

    /// A line of the list of kernels in Debian's pool does not make sense.
    #[error("{}:{line}: {reason}", path.display())]
    BadPool {
        /// The list.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// What the user gave as the kernel's source is none.
    #[error("{}: {reason}", path.display())]
    BadSource {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// There is no such kernel tree.
    #[error("no kernel tree at {}", dir.display())]
    NoTree {
        /// Where it was looked for.
        dir: PathBuf,
        /// Why it cannot be found.
        #[source]
        source: io::Error,
    },

    /// A kernel tree has no kernel in it.
    #[error("{} has no {missing}: {advice}", dir.display())]
    Tree {
        /// The tree.
        dir: PathBuf,
        /// The file that was looked for.
        missing: String,
        /// What to do about it.
        advice: String,
    },

    /// The kernel of a tree is not configured for the rig.
    #[error(
        "{} lacks what every run needs:\n{}\n`ipirig guest config` prints a fragment for \
         scripts/kconfig/merge_config.sh", config.display(),
        lacks.iter().map(|lack| format!("  {lack}")).collect::<Vec<_>>().join("\n")
    )]
    TreeConfig {
        /// The configuration.
        config: PathBuf,
        /// What it lacks.
        lacks: Vec<ipirig_kconfig::requirements::Lack>,
    },

    /// A version that Debian cannot have.
    #[error("`{version}`: a version is numbers with dots between them, such as 6.12")]
    BadVersion {
        /// What was asked for.
        version: String,
    },

    /// The list of patches does not make sense.
    #[error("{}:{line}: {reason}", path.display())]
    BadSeries {
        /// The series file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },

    /// A patch does not apply to this kernel.
    #[error(transparent)]
    Patch(Box<PatchFailure>),

    /// Something still works in the kept kernel tree that an interrupted build has left.
    #[error("process {pid} is at work in {}: end it, then try again", tree.display())]
    TreeInUse {
        /// The kernel tree.
        tree: PathBuf,
        /// The process whose working directory is in it.
        pid: u32,
    },

    /// Kconfig did not accept what the fragments ask for.
    #[error(
        "linux {package} does not take {} of the options in {}: {}",
        lost.len(), fragments.display(), lost.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Config {
        /// The Debian version of the kernel source.
        package: String,
        /// The directory of the fragments.
        fragments: PathBuf,
        /// The options that came out differently.
        lost: Vec<LostOption>,
    },
}

impl GuestError {
    /// Sorts the error for an exit code.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Store(error) => error.class(),
            Self::BadSeries { .. }
            | Self::BadPool { .. }
            | Self::BadSource { .. }
            | Self::BadVersion { .. }
            | Self::Patch(_)
            | Self::NoTree { .. }
            | Self::NoSeries { .. }
            | Self::Tree { .. }
            | Self::TreeConfig { .. }
            | Self::Config { .. } => ErrorClass::Input,
            Self::MissingTools { .. } | Self::NoSource { .. } | Self::TreeInUse { .. } => {
                ErrorClass::Host
            }
        }
    }

    /// For `map_err`: an [`Io`](StoreError::Io) error of `action` on `path`.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let error = StoreError::io(action, path);
        move |source| error(source).into()
    }
}

/// An option that a fragment sets and the finished configuration does not have so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostOption {
    /// The symbol, with its `CONFIG_` prefix.
    pub name: String,
    /// The value asked for; `None` means not set.
    pub wanted: Option<String>,
    /// The value it has; `None` means not set.
    pub got: Option<String>,
}

impl fmt::Display for LostOption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        write!(
            f,
            "{} (wanted {}, is {})",
            self.name,
            show(&self.wanted),
            show(&self.got)
        )
    }
}

/// A patch that does not apply, with what a person needs in order to refresh it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} does not apply to linux {package}: {}\n{rejected}", patch.display(), describe(rejections))]
pub struct PatchFailure {
    /// The patch.
    pub patch: PathBuf,
    /// The Debian version of the kernel source.
    pub package: String,
    /// What found no place. Empty when the patch as a whole was refused.
    pub rejections: Vec<Rejection>,
    /// The rejected hunks; when there are none, what `patch` said.
    pub rejected: String,
}

/// A part of a patch that found no place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rejection {
    /// The lines that a hunk expects are not there.
    Hunk {
        /// The file in the kernel tree.
        file: String,
        /// The hunk's number among those of the file, from 1.
        number: u32,
    },
    /// The tree has no such file.
    NoFile {
        /// The file's name in the patch.
        file: String,
    },
    /// The file has the change already: a point release took it, or it is applied twice.
    Applied {
        /// The file in the kernel tree.
        file: String,
    },
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hunk { file, number } => write!(f, "{file} hunk {number}"),
            Self::NoFile { file } => write!(f, "{file} is not in the tree"),
            Self::Applied { file } => write!(f, "{file} has the change already"),
        }
    }
}

fn describe(rejections: &[Rejection]) -> String {
    if rejections.is_empty() {
        return "`patch` refused it".to_owned();
    }
    rejections
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
