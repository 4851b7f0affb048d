//! Exit codes, decided in this one place.

use std::process::ExitCode;

use ipirig_audit::{Audit, AuditError};
use ipirig_machine::HostError;
use ipirig_rig::run::RunError;

use ipirig_checks::check::Verdict;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Code {
    /// The verdict is `held`, an audit found nothing, or the command did what it should.
    Ok = 0,
    /// The verdict is `violated`, or an audit found offences.
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

impl Code {
    /// The code as `git bisect run` wants it (git-bisect(1)): 0 for a good commit, 125 for one that
    /// cannot be tested, 1 to 127 else for a bad one, and above that to give up. What the user gave
    /// is wrong for every commit; 129 is what git itself says of that.
    #[must_use]
    pub fn for_bisect(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Violated => 1,
            Self::Error | Self::Skipped => 125,
            Self::Usage => 129,
            Self::Interrupted => 130,
        }
    }

    /// The code for several runs of which none may be left out: they hold only if each does. A suite may
    /// have some that may be skipped, and its code is that of its verdict.
    #[must_use]
    pub fn of_each(verdicts: &[Verdict]) -> Self {
        let worst = [Verdict::Violated, Verdict::Error, Verdict::Skipped];
        let worst = worst.into_iter().find(|verdict| verdicts.contains(verdict));
        match worst {
            Some(verdict) => verdict.into(),
            None if verdicts.is_empty() => Self::Error,
            None => Self::Ok,
        }
    }
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

/// An audit: offences come before what cannot be told, and neither is nothing found.
impl From<&Audit> for Code {
    fn from(audit: &Audit) -> Self {
        if !audit.offences.is_empty() {
            Self::Violated
        } else if !audit.open.is_empty() {
            Self::Skipped
        } else {
            Self::Ok
        }
    }
}

/// A file that cannot be audited: it lacks what is needed, or it is none that can be used.
impl From<&AuditError> for Code {
    fn from(error: &AuditError) -> Self {
        if error.is_lack() {
            Self::Skipped
        } else {
            Self::Usage
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

/// What `doctor` ends with: 0 if machines can run on the host that was probed.
#[must_use]
pub fn host_code<T>(probed: &Result<T, &HostError>) -> Code {
    match probed {
        Ok(_) => Code::Ok,
        Err(_) => Code::Skipped,
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

    #[test]
    fn the_process_ends_with_the_code() {
        use Code::{Error, Interrupted, Ok, Skipped, Usage, Violated};
        for (code, number) in [Ok, Violated, Usage, Error, Skipped, Interrupted]
            .into_iter()
            .zip([0_u8, 1, 2, 3, 4, 130])
        {
            assert_eq!(ExitCode::from(code), ExitCode::from(number), "{code:?}");
        }
    }

    #[test]
    fn a_host_without_usable_kvm_is_skipped_and_one_that_fails_is_an_error() {
        let path = || std::path::PathBuf::from("/dev/kvm");
        let source = || std::io::Error::other("why");
        let lacks = [
            HostError::NoKvm { path: path() },
            HostError::NotAllowed {
                path: path(),
                source: source(),
            },
            HostError::Open {
                path: path(),
                source: source(),
            },
            HostError::Version {
                path: path(),
                version: 11,
            },
            HostError::Missing { capability: "x" },
        ];
        assert_eq!(lacks.map(|it| host_verdict(&it)), [Verdict::Skipped; 5]);
        assert_eq!(host_verdict(&HostError::Cores(source())), Verdict::Error);
    }

    #[test]
    fn an_audit_is_clean_only_if_nothing_is_found_and_nothing_is_left_open() {
        use ipirig_audit::{Finding, Open, Unknown, What};
        let offence = Finding {
            what: What::FlagNotSet,
            address: 0,
            place: String::new(),
            instruction: String::new(),
            words: String::new(),
            entries: vec![],
            features: vec![],
        };
        let open = Open {
            why: Unknown::Unreached,
            address: 0,
            place: String::new(),
            instruction: String::new(),
            entries: vec![],
        };
        let code = |offences: &[Finding], open: &[Open]| {
            Code::from(&Audit {
                schema_version: ipirig_audit::SCHEMA_VERSION,
                banner: None,
                flag: None,
                combinations: vec![],
                entries: vec![],
                switches: vec![],
                sites: vec![],
                alternatives: 0,
                memory: vec![],
                offences: offences.to_vec(),
                open: open.to_vec(),
            })
        };
        assert_eq!(code(&[], &[]), Code::Ok);
        assert_eq!(code(&[], std::slice::from_ref(&open)), Code::Skipped);
        assert_eq!(code(&[offence], &[open]), Code::Violated);
        let lack = AuditError::NoSymbol { name: "x" };
        let damaged = AuditError::Damaged { what: "x" };
        assert_eq!(
            [lack, damaged].map(|error| Code::from(&error)),
            [Code::Skipped, Code::Usage]
        );
    }

    #[test]
    fn a_bisection_calls_bad_only_what_is_violated() {
        use Code::{Error, Interrupted, Ok, Skipped, Usage, Violated};
        let codes = [Ok, Violated, Error, Skipped, Usage, Interrupted].map(Code::for_bisect);
        assert_eq!(codes, [0, 1, 125, 125, 129, 130]);
    }

    #[test]
    fn of_several_runs_none_may_be_left_out() {
        use Verdict::{Error, Held, Skipped, Violated};
        for (verdicts, code) in [
            (&[][..], Code::Error),
            (&[Held, Held], Code::Ok),
            (&[Held, Skipped], Code::Skipped),
            (&[Skipped, Error], Code::Error),
            (&[Error, Violated, Held], Code::Violated),
        ] {
            assert_eq!(Code::of_each(verdicts), code, "{verdicts:?}");
        }
    }
}
