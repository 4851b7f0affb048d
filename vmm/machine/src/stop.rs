//! Why a guest no longer runs.

use thiserror::Error;

/// Why the machine stopped.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StopReason {
    /// The guest reset itself: a reboot or a power-off, or a reset of the boot CPU.
    #[error("the guest reset itself")]
    Reset,
    /// The guest wrote to the device isa-debug-exit: see [`crate::Machine::offer_debug_exit`].
    #[error("the guest ended itself with code {code}")]
    DebugExit {
        /// What it wrote.
        code: u32,
    },
    /// An exception could not be delivered.
    #[error("triple fault on vCPU {cpu}")]
    TripleFault {
        /// The vCPU.
        cpu: usize,
    },
    /// The guest kernel said on its console that it gave up.
    #[error("{line}")]
    Panic {
        /// The console line, from "Kernel panic" on.
        line: String,
    },
    /// KVM gave up (`KVM_EXIT_INTERNAL_ERROR`) and no assist could help.
    #[error("KVM internal error {suberror} on vCPU {cpu}{}", bytes(.instruction))]
    InternalError {
        /// The vCPU.
        cpu: usize,
        /// `KVM_INTERNAL_ERROR_*`.
        suberror: u32,
        /// The instruction that KVM could not emulate, if it said.
        instruction: Vec<u8>,
    },
    /// KVM left the guest for a reason the machine has no answer to.
    #[error("vCPU {cpu}: unexpected KVM exit: {what}")]
    UnexpectedExit {
        /// The vCPU.
        cpu: usize,
        /// The exit, as kvm-ioctls names it.
        what: String,
    },
    /// A system call that the vCPU needs failed.
    #[error("vCPU {cpu}: {what}: {error}")]
    Host {
        /// The vCPU.
        cpu: usize,
        /// The call.
        what: &'static str,
        /// The host's words.
        error: String,
    },
    /// The thread of a vCPU panicked. What it said is on standard error.
    #[error("vCPU {cpu}: its thread panicked, which is a bug of ipirig's")]
    Bug {
        /// The vCPU.
        cpu: usize,
    },
    /// A phase took longer than it may. Set by the machine's user.
    #[error("no progress: {phase} did not end in {seconds} s")]
    Timeout {
        /// What was going on.
        phase: String,
        /// The limit.
        seconds: u64,
    },
    /// The guest's agent said that it cannot go on. Set by the machine's user.
    #[error("the guest agent failed: {message}")]
    Agent {
        /// Its words.
        message: String,
    },
}

fn bytes(instruction: &[u8]) -> String {
    if instruction.is_empty() {
        return String::new();
    }
    let hex: Vec<_> = instruction
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!(": cannot emulate {}", hex.join(" "))
}
