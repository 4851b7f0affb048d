//! The mailbox: the layout and the command set that the rig and the guest agent share.
//!
//! The mailbox is a stretch of guest-physical memory outside the guest's RAM (so no kernel ever
//! hands it out) that the agent maps and the rig reads from outside. An isolated task reports and
//! is released through it with plain loads and stores: no kernel entry, no interrupt.
//!
//! What this crate does not do: map anything, wait, or decide. The rig's half is
//! `ipirig-machine` (the mapping) and `ipirig-rig` (the conductor); the guest's half is
//! `ipirig-agent`.
//!
//! Every field is an atomic, because both sides write at any time, and the guest may be hostile:
//! the rig treats each value it reads as a claim. One side owns each field; its doc says which.
#![no_std]
#![forbid(unsafe_code)]

use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

#[macro_use]
mod codes;
mod command;
mod flavour;
pub mod gaps;
pub mod module;
pub mod observe;
mod storm;

pub use codes::UnknownCode;
pub use command::{
    AgentState, Command, Ending, KernelText, Order, Role, Status, TaskState, TraceStep,
};
pub use flavour::Flavour;
pub use gaps::{Gap, Gaps};
pub use storm::{Changes, Completion, Needs, StormKind, StormProperties, Target};

/// On the guest's command line, before a list of entry kinds with commas between them: those that the host's KVM gets
/// wrong, so that the agent does not try them. The kernel passes over words with a dot in them (init/main.c,
/// unknown_bootoption).
pub const NOT_PRODUCED: &str = "ipirig.not_produced=";

/// Guest-physical address of the mailbox. Above any RAM the rig gives a guest (at most 3 GiB) and
/// below the APIC's page at 0xfee0_0000.
pub const MAILBOX_GPA: u64 = 0xd000_0000;
/// Bytes mapped for the mailbox; a multiple of the page size.
pub const MAILBOX_SIZE: usize = 0x6_0000;
/// I/O port of the doorbell. A write of any width and value means "look at the mailbox".
pub const DOORBELL_PORT: u16 = 0x510;
/// First word of a mailbox, written by the rig before the guest starts.
pub const MAGIC: u64 = u64::from_le_bytes(*b"ipirig\0\0");
/// Layout version; changes with any change to this file. The agent refuses another.
pub const VERSION: u32 = 5;
/// Most vCPUs a guest may have: one bit each in a `u64`.
pub const MAX_CPUS: usize = 64;
/// The signal of [`Command::Signal`]: SIGUSR1 (signal(7), x86).
pub const KICK_SIGNAL: u32 = 10;
/// Longest stay in the kernel of [`Order::Stay`], in milliseconds of the guest: a rig that forgets
/// it, or dies, must not keep the vCPU busy for good. Longer than a rig gives a storm by default.
pub const STAY_LIMIT_MS: u32 = 120_000;
/// A parameter of the kernel's command line, which the kernel hands on to the agent: with the value
/// `none`, isolated CPUs get no tasks, and so have never been in user mode.
pub const TASKS: &str = "ipirig_tasks";
/// The same: with the value `none`, the agent writes to none of the kernel's settings that keep periodic work off
/// isolated CPUs.
pub const SETTINGS: &str = "ipirig_settings";
/// The function that storms of tracing trace: every kernel has it (kernel/reboot.c), and it does not
/// run while a storm does.
pub const TRACED_FUNCTION: &str = "kernel_power_off";
/// Bytes of a text area.
pub const TEXT_LEN: usize = 0x8000;

/// The whole mailbox.
#[repr(C)]
#[derive(Debug)]
pub struct Mailbox {
    /// What it is, and how the agent is doing.
    pub header: Header,
    /// The rig's channel to the control task.
    pub control: Control,
    /// One slot a vCPU, by vCPU number (which is also the guest's CPU number).
    pub cpus: [CpuSlot; MAX_CPUS],
    /// Text that goes with an acknowledged command or with a failure. Agent, before `ack` or before
    /// a failed state.
    pub text: Text,
    /// What goes with a command. Rig, before `seq`.
    pub handed: Text,
    /// What the isolated tasks measure, by vCPU number.
    pub gaps: [Gaps; MAX_CPUS],
}

/// Identification and the state of the agent.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Header {
    /// [`MAGIC`]. Rig.
    pub magic: AtomicU64,
    /// [`VERSION`]. Rig.
    pub version: AtomicU32,
    /// Number of vCPUs, at most [`MAX_CPUS`]. Rig.
    pub cpus: AtomicU32,
    /// An [`AgentState`]. Agent.
    pub agent: AtomicU32,
    /// 1 when the agent loaded `ipirig.ko`, 0 when the initramfs has none. Agent.
    pub module: AtomicU32,
}

/// One outstanding command at a time. The rig writes `command` and `args`, then `seq`; the agent
/// obeys, writes `status`, `results` and the text, then sets `ack` to `seq` and rings the doorbell.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Control {
    /// Number of the newest command; 0 before the first. Rig.
    pub seq: AtomicU32,
    /// A [`Command`]. Rig.
    pub command: AtomicU32,
    /// The command's arguments. Rig.
    pub args: [AtomicU64; 4],
    /// `seq` of the newest command that is done. Agent; on a cache line of its own so that waiting
    /// for a command does not fight with the rig's writes.
    pub reply: Reply,
}

/// The agent's answer to a command.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Reply {
    /// `seq` of the newest command that is done. Agent, written last.
    pub ack: AtomicU32,
    /// A [`Status`]. Agent.
    pub status: AtomicU32,
    /// Positive `errno` when `status` is [`Status::Failed`]. Agent.
    pub errno: AtomicU32,
    /// The command's results, by command. Agent.
    pub results: [AtomicU64; 4],
}

/// What the rig and the task on one isolated vCPU share.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct CpuSlot {
    /// A [`Role`]. Rig, before the guest starts.
    pub role: AtomicU32,
    /// Number of the newest order; 0 before the first. Rig, written after `order`.
    pub order_seq: AtomicU32,
    /// An [`Order`]. Rig.
    pub order: AtomicU32,
    /// What the task itself writes. Agent; on cache lines of its own.
    pub task: TaskSlot,
}

/// What an isolated task says.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct TaskSlot {
    /// Grows by one each turn of the task's user-space loop. Agent.
    pub heartbeat: AtomicU64,
    /// A [`TaskState`]. Agent.
    pub state: AtomicU32,
    /// `order_seq` of the newest order that was carried out. Agent, written last.
    pub order_ack: AtomicU32,
    /// [`Order::Probe`]: 1 when this CPU took the branch of an enabled key, else 0. Agent.
    pub branch: AtomicU32,
    /// Positive `errno` of the order, or 0: its system call's, or what [`Order`] says. Agent.
    pub errno: AtomicU32,
    /// [`Order::Probe`]: the word this CPU read through the remapped vmalloc alias. Agent.
    pub alias: AtomicU64,
    /// Signals that the task handled, those of orders and those of [`Command::Signal`]. 0 when it
    /// starts to spin; up to date at each acknowledgement and each turn of the loop. Agent, written
    /// after `signal`.
    pub signals: AtomicU64,
    /// Number of the newest of them, or 0. Agent.
    pub signal: AtomicU32,
    /// [`Order::Probe`]: NMIs that the module claimed on this CPU, modulo 2^32. Agent.
    pub nmis: AtomicU32,
}

/// A text of at most [`TEXT_LEN`] bytes.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Text {
    /// Valid bytes; a reader clamps it to [`TEXT_LEN`].
    pub len: AtomicU32,
    /// The bytes, UTF-8 by intention, not by promise.
    pub bytes: [AtomicU8; TEXT_LEN],
}

impl Text {
    /// Replaces the text; what does not fit is cut.
    pub fn set(&self, text: &[u8]) {
        let mut len = 0;
        for (cell, &byte) in self.bytes.iter().zip(text) {
            cell.store(byte, Ordering::Relaxed);
            len += 1;
        }
        self.len.store(len, Ordering::Release);
    }

    /// The text's bytes. Never more than [`TEXT_LEN`], whatever the other side wrote.
    pub fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        let len = (self.len.load(Ordering::Acquire) as usize).min(TEXT_LEN);
        self.bytes
            .iter()
            .take(len)
            .map(|cell| cell.load(Ordering::Relaxed))
    }
}

// The layout is an ABI: a change of size or place must be a change of `VERSION`.
const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<Header>() == 64);
    assert!(size_of::<Control>() == 128);
    assert!(size_of::<CpuSlot>() == 128);
    assert!(size_of::<TaskSlot>() == 64);
    assert!(offset_of!(TaskSlot, signals) == 32);
    assert!(offset_of!(TaskSlot, nmis) == 44);
    assert!(offset_of!(CpuSlot, task) == 64);
    assert!(offset_of!(Mailbox, control) == 64);
    assert!(offset_of!(Mailbox, cpus) == 192);
    assert!(offset_of!(Mailbox, text) == 192 + 128 * MAX_CPUS);
    assert!(offset_of!(Mailbox, handed) == offset_of!(Mailbox, text) + size_of::<Text>());
    assert!(offset_of!(Mailbox, gaps) == offset_of!(Mailbox, handed) + size_of::<Text>());
    assert!(offset_of!(Gaps, told) == 64);
    assert!(offset_of!(gaps::GapRecord, ring) == 24 + 8 * gaps::BUCKETS);
    assert!(size_of::<Gaps>() == 64 + 576 + 16 * gaps::GAPS);
    assert!(size_of::<Mailbox>() <= MAILBOX_SIZE);
};

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Text {
        Text {
            len: AtomicU32::new(0),
            bytes: [const { AtomicU8::new(0) }; TEXT_LEN],
        }
    }

    #[test]
    fn a_text_reads_back_as_written_and_a_shorter_one_replaces_it() {
        let text = text();
        text.set(b"mount /proc: ENODEV");
        assert!(text.iter().eq(*b"mount /proc: ENODEV"));
        text.set(b"ok");
        assert!(text.iter().eq(*b"ok"));
    }

    #[test]
    fn a_lying_length_is_clamped() {
        let text = text();
        text.len.store(u32::MAX, Ordering::Relaxed);
        assert_eq!(text.iter().count(), TEXT_LEN);
    }

    #[test]
    fn a_text_too_long_is_cut() {
        let text = text();
        text.set(&[b'x'; TEXT_LEN + 1]);
        assert_eq!(text.iter().count(), TEXT_LEN);
    }
}
