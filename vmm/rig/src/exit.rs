//! Exit codes, decided in this one place.

use std::process::ExitCode;

use ipirig_machine::HostError;

use crate::run::RunError;
use crate::verdict::Verdict;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The verdict is `held`, or the command did what it should.
    Ok = 0,
    /// The verdict is `violated`.
    Violated = 1,
    /// What the user gave is wrong: arguments, kernel and scenario files included. clap uses the
    /// same code.
    Usage = 2,
    /// The guest or the rig failed.
    Error = 3,
    /// Host or kernel lacks what is needed.
    Skipped = 4,
    /// Ended by SIGINT or SIGTERM; 128 + 2, as a shell says it.
    Interrupted = 130,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

impl From<Verdict> for Code {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Held => Self::Ok,
            Verdict::Violated => Self::Violated,
            Verdict::Error => Self::Error,
            Verdict::Skipped => Self::Skipped,
        }
    }
}

impl From<&RunError> for Code {
    fn from(error: &RunError) -> Self {
        match error {
            RunError::Interrupted { .. } => Self::Interrupted,
            RunError::Input(_) => Self::Usage,
        }
    }
}

/// Whether a host error is the host's lack (`skipped`) or the rig's failure (`error`).
#[must_use]
pub fn host_verdict(error: &HostError) -> Verdict {
    match error {
        HostError::NoKvm { .. }
        | HostError::NotAllowed { .. }
        | HostError::Open { .. }
        | HostError::Version { .. }
        | HostError::Missing { .. } => Verdict::Skipped,
        _ => Verdict::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_verdict_has_its_documented_code() {
        let codes = [
            Verdict::Held,
            Verdict::Violated,
            Verdict::Error,
            Verdict::Skipped,
        ]
        .map(|verdict| Code::from(verdict) as u8);
        assert_eq!(codes, [0, 1, 3, 4]);
        assert_eq!((Code::Usage as u8, Code::Interrupted as u8), (2, 130));
    }
}
