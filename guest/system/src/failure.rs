//! What the agent could not do, and why.

use std::fmt;

use crate::errno::Errno;

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The step, in words that name the file or the CPU.
    what: String,
    errno: Option<Errno>,
}

impl Failure {
    /// A failure that no system call reported.
    pub fn new(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            errno: None,
        }
    }

    /// A failure that a system call reported.
    pub fn of(what: impl Into<String>, errno: Errno) -> Self {
        Self {
            what: what.into(),
            errno: Some(errno),
        }
    }

    /// As the mailbox carries it; 0 when no system call reported the failure.
    pub fn code(&self) -> u32 {
        self.errno.map_or(0, Errno::code)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Some(errno) => write!(f, "{}: {errno}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Names the step that a system call's error belongs to.
pub trait During<T> {
    /// `what` is only built when there is an error.
    fn during<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Failure>;
}

impl<T, E: Into<Errno>> During<T> for Result<T, E> {
    fn during<S: Into<String>>(self, what: impl FnOnce() -> S) -> Result<T, Failure> {
        self.map_err(|error| Failure::of(what(), error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_call_names_the_step_and_the_error() {
        let failure = Err::<(), _>(Errno(libc::ENODEV))
            .during(|| "mount debugfs on /sys/kernel/debug")
            .unwrap_err();
        assert_eq!(
            failure.to_string(),
            "mount debugfs on /sys/kernel/debug: ENODEV (No such device)"
        );
        assert_eq!(failure.code(), 19);
    }

    #[test]
    fn a_failure_of_no_call_has_no_errno() {
        let failure = Failure::new("the mailbox has no slot with the role Control");
        assert_eq!(
            failure.to_string(),
            "the mailbox has no slot with the role Control"
        );
        assert_eq!(failure.code(), 0);
    }
}
