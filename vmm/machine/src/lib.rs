//! A small KVM virtual machine without an in-kernel interrupt controller.
//!
//! What it does: finds out what the host can do ([`Host`]), lays a Linux guest out in memory, runs
//! one pinned thread a vCPU, gives each vCPU a local APIC in user space, and tells an [`Observer`]
//! of every IPI sent and every interrupt taken. A machine can be saved to a file, and gone on from
//! ([`Machine::save`], [`Machine::restore`]). The guest's agent and the machine's user meet in
//! the mailbox ([`Machine::mailbox`]) and at the doorbell ([`Machine::wait`]).
//!
//! What it does not do: know what a scenario is, count, or judge. Those are `ipirig-scenario`, `ipirig-evidence` and
//! `ipirig-checks`. What an APIC is and where an IPI goes is `ipirig-apic`, which knows no KVM.
//!
//! "SDM" is Intel's Software Developer's Manual, with the numbers of its 2023 editions, where the
//! APIC is chapter 11 of volume 3 (10 before, 12 since).
//!
//! The guest is hostile: no number that it writes is used as an index unchecked, and no queue grows
//! with what it does.

mod affinity;
mod assist;
pub mod clock;
mod config;
mod console;
mod cpuid;
mod feature;
mod host;
mod inspect;
mod kvm_events;
mod machine;
mod memory;
mod msr;
mod observer;
mod placement;
mod ports;
mod probe;
mod report;
mod snapshot;
mod stop;
mod sys;
mod threads;
mod timer;
mod vcpu;
mod vcpu_set;
mod vm;
mod wakeups;

pub use config::{ApicMode, Config};
pub use console::{ConsoleSinks, ConsoleStyle};
pub use cpuid::CpuidError;
pub use host::{GuestDebug, Host, HostError, HostFacts, Levels, ProbeResult, Virtualization};
pub use ipirig_apic::Line;
pub use ipirig_boot::{
    BootError, FirstBytes, InitramfsFault, KernelFault, KernelFormat, check_initramfs, check_kernel,
};
pub use kvm_events::{KvmEventsError, KvmTrace, NoEvent};
pub use machine::{Beginning, Checkpoint, Follow, Machine, MachineError, Raise, Still, Wakeup};
pub use memory::MemoryError;
pub use observer::{
    AcceptedEvent, IpiEvent, Observer, Sender, SenderRegisters, VirtualMemory, WatchEvent,
};
pub use placement::{Placement, PlacementError};
pub use probe::ProbeError;
pub use report::{Counters, CrashReport, VcpuState};
pub use snapshot::{Snapshot, SnapshotError, snapshot_key};
pub use stop::StopReason;
pub use vcpu::Placed;
pub use vcpu_set::Sample;
