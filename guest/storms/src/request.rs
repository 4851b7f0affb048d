//! What the rig asks of a storm, and how far that came.

use ipirig_abi::StormKind;

use ipirig_system::{Errno, Failure};

/// A storm that the rig asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StormRequest {
    /// The kind.
    pub kind: StormKind,
    /// How many operations.
    pub operations: u64,
    /// A size, by kind.
    pub size: u64,
    /// An address, by kind.
    pub target: u64,
}

/// How far a storm came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Operations done.
    pub done: u64,
    /// A value, by kind.
    pub value: u64,
}

/// Why a storm did not run to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StormError {
    /// It needs the module.
    NoModule,
    /// The kernel, or the initramfs, lacks this.
    Lacking(String),
    /// It failed.
    Failed(Failure),
}

impl From<Failure> for StormError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl StormRequest {
    /// Does each operation; all must be done.
    pub fn each(
        &self,
        progress: &mut Progress,
        mut operation: impl FnMut() -> Result<(), StormError>,
    ) -> Result<(), StormError> {
        while progress.done < self.operations {
            operation()?;
            progress.done += 1;
        }
        Ok(())
    }

    /// The storm in words.
    pub fn describe(&self) -> String {
        format!(
            "{} operations of {:?}, size {}",
            self.operations, self.kind, self.size
        )
    }
}

pub(crate) fn refused(request: &StormRequest) -> StormError {
    Failure::of(request.describe(), Errno(libc::EINVAL)).into()
}
