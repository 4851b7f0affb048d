//! Everything that can stop a guest from being built.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

/// Why there is no guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GuestError {
    /// The directory with patches, configuration, module and agent is not there.
    #[error(
        "no guest sources at {}: set IPIRIG_GUEST_DIR to the `guest` directory of an ipirig checkout",
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
        lacks: Vec<crate::requirements::Lack>,
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

    /// There are no mutants where they should be.
    #[error("no mutants: there is no *.patch in {}", dir.display())]
    NoMutants {
        /// Where they were looked for.
        dir: PathBuf,
    },

    /// The header of a mutant's patch does not say what it must.
    #[error("{}:{line}: {reason}", path.display())]
    BadMutant {
        /// The patch.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, and what to write.
        reason: String,
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

/// Whose move it is after a [`GuestError`].
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

impl GuestError {
    /// Sorts the error for an exit code.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NoGuestDir { .. }
            | Self::NoCacheDir
            | Self::AwkwardCacheDir { .. }
            | Self::BadSeries { .. }
            | Self::BadPool { .. }
            | Self::BadSource { .. }
            | Self::NoMutants { .. }
            | Self::BadMutant { .. }
            | Self::Patch(_)
            | Self::NoTree { .. }
            | Self::Tree { .. }
            | Self::TreeConfig { .. }
            | Self::Config { .. } => ErrorClass::Input,
            Self::MissingTools { .. }
            | Self::NoSource { .. }
            | Self::Spawn { .. }
            | Self::TreeInUse { .. }
            | Self::InLab { .. }
            | Self::Io { .. } => ErrorClass::Host,
            Self::Failed { .. } | Self::Product { .. } => ErrorClass::Build,
            Self::Interrupted { .. } => ErrorClass::Interrupt,
        }
    }

    /// For `map_err`: an [`Io`](Self::Io) error of `action` on `path`.
    pub(crate) fn io(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            action,
            path,
            source,
        }
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
