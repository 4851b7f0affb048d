//! Host quirks: what a probe guest finds amiss on this host, and what the machine does about it.
//!
//! One file a quirk, one line in [`QUIRKS`]. A quirk that is not found costs nothing: no assist is
//! installed, nothing is hidden and the command line stays as it was.

mod busy_tss;
mod cmpxchg16b;
mod cpu;
mod fwait;
mod int3;
mod privileged;
mod quirk;
mod slow_kernel;
mod syscall;
mod tsc_writes;

pub(crate) use cpu::{Assist, Cpu, Handled, handler, handlers};
pub(crate) use quirk::{CROWD, Quirk, Remedy};

/// Every quirk that is looked for, in the order of `ipirig doctor`.
pub(crate) const QUIRKS: &[Quirk] = &[
    slow_kernel::QUIRK,
    int3::QUIRK,
    fwait::QUIRK,
    syscall::QUIRK,
    cmpxchg16b::QUIRK,
    privileged::QUIRK,
    tsc_writes::QUIRK,
    busy_tss::QUIRK,
];
