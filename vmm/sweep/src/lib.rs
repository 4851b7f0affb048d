//! The sweep: each event at each instruction of the kernel's entry and exit paths, judged by invariants.
//!
//! A point is one event at one instruction of one path ([`name`]). A path is traced once, and the trace
//! says which points there are ([`plan`]). What a CPU executed from a point on is judged by itself
//! ([`judge()`]): no statistics, no timing. [`result`] is what is written.
//!
//! What this crate does not do: run a machine, place an event, wait for anything (`ipirig-rig` and
//! `ipirig-machine` do), or print.
//!
//! "SDM" is Intel's Software Developer's Manual with the numbers of its 2023 editions.

#![forbid(unsafe_code)]

pub mod judge;
pub mod merge;
pub mod name;
pub mod nested;
pub mod plan;
pub mod result;
pub mod sender;

pub use judge::{Invariant, JudgeContext, Outcome, Sent, Violation, judge};
pub use merge::{MergeError, merge};
pub use name::{EventName, NameError, PathName, PointName, Side};
pub use nested::{NestedWay, happens_on, turning_points};
pub use plan::{PlannedPath, PlannedPoint, Shard};
pub use result::{PathResult, PointResult, Status, SweepResult};
pub use sender::{ReadCode, Sender, SenderPath, judge_exit, judge_sender};

#[cfg(test)]
mod testing;
