//! The phases of a run.

use std::fmt;

/// A stretch of a run, for progress and for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// From the first instruction to the agent's readiness.
    Boot,
    /// Writing down the guest that is ready, for later runs.
    Save,
    /// Restoring the guest from where another run saved it.
    Restore,
    /// Handing files over for a command that is to be observed.
    HandOver,
    /// Reading what the kernel says of itself: how it is set up, its build id, its symbols.
    Identify,
    /// What the storm needs done once, before anything is looked at.
    Prepare,
    /// Having the kernel trace its IPIs.
    StartTrace,
    /// Reading what the kernel counts, before.
    Before,
    /// One entry of each isolated vCPU, to know where it starts from.
    Baseline,
    /// Waiting until nothing disturbs the isolated vCPUs.
    Quiet,
    /// The storm, inside the window.
    Storm,
    /// A command that is observed, inside the window.
    Observe,
    /// The first entry of each isolated vCPU.
    Release,
    /// Visiting the points of a sweep.
    Sweep,
    /// Reading what the kernel counts, after.
    After,
    /// Reading what the kernel traced.
    ReadTrace,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Boot => "boot",
            Self::Save => "saving a snapshot",
            Self::Restore => "restoring a snapshot",
            Self::HandOver => "handing files over",
            Self::Identify => "asking the kernel what it is",
            Self::Prepare => "making ready for the storm",
            Self::StartTrace => "switching the guest's tracing on",
            Self::Before => "reading counters before the window",
            Self::Baseline => "baseline entry",
            Self::Quiet => "waiting for quiet",
            Self::Storm => "storm",
            Self::Observe => "observing",
            Self::Release => "first entry",
            Self::Sweep => "sweep",
            Self::After => "reading counters after the window",
            Self::ReadTrace => "reading the guest's trace",
        })
    }
}
