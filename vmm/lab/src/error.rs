//! What can go wrong outside.

use std::io;
use std::path::PathBuf;

/// Why the program did not come to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A program that the lab rests on is not there.
    #[error("the lab needs {program}: {install}")]
    Missing {
        /// The program.
        program: &'static str,
        /// The command that installs it.
        install: String,
    },

    /// The emulator is there, and is too old.
    #[error("{found} cannot emulate what is needed ({lacks}): {install}")]
    TooOld {
        /// As it names itself.
        found: String,
        /// What it lacks.
        lacks: &'static str,
        /// The command that installs a newer one.
        install: String,
    },

    /// A path that the host's kernel cannot be told.
    #[error("{} has a quotation mark or a control character in it, which a kernel's command line cannot have", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },

    /// A program could not be started.
    #[error("cannot start `{program}`")]
    Spawn {
        /// The program and its arguments.
        program: String,
        /// Why it did not start.
        #[source]
        source: io::Error,
    },

    /// A program ran and failed.
    #[error("`{program}` failed: {output}")]
    Failed {
        /// The program and its arguments.
        program: String,
        /// What it printed last.
        output: String,
    },

    /// Something on this machine failed.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// The host did not come up.
    #[error(
        "the emulated host did not start the program within {seconds} s; its console ends:\n{console}"
    )]
    Boot {
        /// How long it had.
        seconds: u64,
        /// The last lines of its console.
        console: String,
    },

    /// The host ended, and not by its own will.
    #[error("the emulated host ended before the program did; its console ends:\n{console}")]
    Died {
        /// The last lines of its console.
        console: String,
    },

    /// The host stopped saying that it is alive.
    #[error(
        "the emulated host hangs: nothing was heard of it for {seconds} s; its console ends:\n{console}"
    )]
    Silent {
        /// How long nothing was heard.
        seconds: u64,
        /// The last lines of its console.
        console: String,
    },

    /// The host came up, and could not start the program.
    #[error("in the emulated host: {reason}")]
    Inside {
        /// What its process 1 says.
        reason: String,
    },

    /// What came from the host is not what its process 1 sends.
    #[error("the emulated host sent what it cannot have meant")]
    Garbled(#[from] crate::wire::FrameError),
}

impl LabError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }

    /// Whether this machine lacks something that can be installed.
    #[must_use]
    pub fn is_lack(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::TooOld { .. })
    }
}
