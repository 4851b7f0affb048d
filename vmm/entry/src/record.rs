//! The record of one way into the kernel: each instruction with the CPU's state before it.

use std::collections::BTreeSet;

use ipirig_instruction::Step;
use schemars::JsonSchema;
use serde::Serialize;

/// The way into the kernel that one CPU took once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The vCPU.
    pub cpu: usize,
    /// How it came in.
    pub began: Began,
    /// First instructions of the kernel's interrupt and exception handlers (its IDT), then.
    pub handlers: BTreeSet<u64>,
    /// What it executed, the first kernel instruction first.
    pub steps: Vec<Step>,
    /// Why nothing more was recorded.
    pub ended: Ended,
}

/// A way from user space into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Began {
    /// SYSCALL of 64-bit code.
    Syscall,
    /// SYSCALL of 32-bit code.
    CompatSyscall,
    /// SYSENTER.
    Sysenter,
    /// An interrupt or exception, through the IDT.
    Vector(u8),
    /// An exception that the IRET to user space raised: the kernel's own instruction, with what is user
    /// space's in force.
    FaultingReturn(u8),
    /// None: the kernel called a function of its own, of which this is the first instruction.
    Call,
}

/// Why a record ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ended {
    /// The CPU was back in user space: the record has the way out as well.
    User,
    /// As many steps as were asked for.
    Limit,
    /// The CPU waits in HLT.
    Halted,
    /// The CPU was back in what an interrupt had interrupted, which was in the kernel.
    Interrupted,
    /// Nothing was recorded: no debug register was left for the handler's first instruction.
    NoBreakpoint,
}
