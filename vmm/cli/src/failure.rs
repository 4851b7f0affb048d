//! An error on its way out, with the exit code the rig has for it.

use std::error::Error;
use std::fmt;

use ipirig_checks::check::Verdict;
use ipirig_gate::patches::PatchError;
use ipirig_guest::{ErrorClass, GuestError, StoreError};
use ipirig_rig::run::RunError;
use ipirig_verdict::exit::Code;

use crate::say::say;

/// Why a command did not come to its end.
#[derive(Debug)]
pub(crate) struct Failure {
    code: Code,
    error: anyhow::Error,
}

impl Failure {
    /// What the user gave is wrong.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: Code::Usage,
            error: error.into(),
        }
    }

    /// This machine lacks something.
    pub(crate) fn skipped(error: impl Into<anyhow::Error>) -> Self {
        Self {
            code: Code::Skipped,
            error: error.into(),
        }
    }

    /// Whatever `code` says.
    pub(crate) fn with_code(code: Code, error: anyhow::Error) -> Self {
        Self { code, error }
    }

    /// The user wants it to end.
    pub(crate) fn interrupted() -> Self {
        Self {
            code: Code::Interrupted,
            error: anyhow::anyhow!("interrupted"),
        }
    }

    /// Whether what the user gave is wrong.
    pub(crate) fn is_usage(&self) -> bool {
        self.code == Code::Usage
    }

    /// What a run came to that it ended, and why.
    pub(crate) fn outcome(&self) -> (Verdict, &dyn Error) {
        let verdict = match self.code {
            Code::Skipped => Verdict::Skipped,
            _ => Verdict::Error,
        };
        (verdict, self.error.as_ref())
    }

    /// Prints the error with its causes, and says how to exit.
    pub(crate) fn report(&self) -> Code {
        say(&format!("ipirig: {self}\n"));
        self.code
    }
}

/// The error with its causes.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // `{:#}` joins the causes with colons.
        write!(f, "{:#}", self.error)
    }
}

/// Whatever nobody classified is the rig's own failure.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            code: Code::Error,
            error,
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self {
            code: Code::from(&error),
            error: error.into(),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        GuestError::from(error).into()
    }
}

impl From<PatchError> for Failure {
    fn from(error: PatchError) -> Self {
        let code = match error {
            PatchError::Io { .. } => Code::Skipped,
            _ => Code::Usage,
        };
        Self {
            code,
            error: anyhow::Error::from(error).context("cannot build the guest"),
        }
    }
}

impl From<GuestError> for Failure {
    fn from(error: GuestError) -> Self {
        let code = match error.class() {
            ErrorClass::Input => Code::Usage,
            ErrorClass::Host => Code::Skipped,
            ErrorClass::Build => Code::Error,
            ErrorClass::Interrupt => Code::Interrupted,
        };
        Self {
            code,
            error: anyhow::Error::from(error).context("cannot build the guest"),
        }
    }
}
