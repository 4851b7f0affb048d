//! What is known about a guest that stopped, for a person.

use std::fmt;

use ipirig_image::Symbols;
use kvm_bindings::kvm_regs;
use serde::Serialize;

use crate::stop::StopReason;

/// Console lines shown with a report.
pub(crate) const CONSOLE_LINES: usize = 20;

/// How often one vCPU did what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counters {
    /// Turns of the vCPU's loop.
    pub turns: u64,
    /// Port accesses that came to user space.
    pub io: u64,
    /// Accesses to memory that is not RAM: the xAPIC page, mostly.
    pub mmio: u64,
    /// MSR accesses that came to user space: x2APIC registers, mostly.
    pub msr: u64,
    /// HLT instructions.
    pub halts: u64,
    /// Times the thread waited in HLT or for a SIPI.
    pub parks: u64,
    /// Exits that another thread or the APIC timer asked for.
    pub kicks: u64,
    /// Exits because the guest became able to take an interrupt.
    pub windows: u64,
    /// Debug exits.
    pub debug: u64,
    /// Interrupts injected.
    pub injected: u64,
    /// NMIs injected.
    pub nmis: u64,
    /// Times each assist helped, by its quirk's name.
    pub assists: Vec<(&'static str, u64)>,
}

impl Counters {
    pub(crate) fn new(assists: impl Iterator<Item = &'static str>) -> Self {
        Self {
            assists: assists.map(|name| (name, 0)).collect(),
            ..Self::default()
        }
    }

    pub(crate) fn assisted(&mut self, index: usize) {
        if let Some((_, count)) = self.assists.get_mut(index) {
            *count += 1;
        }
    }
}

/// The last state of one vCPU.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct VcpuState {
    /// Its number.
    pub cpu: usize,
    /// General registers.
    pub regs: kvm_regs,
    /// The last page fault's address.
    pub cr2: u64,
    /// Page-table base.
    pub cr3: u64,
    /// Privilege level: 0 or 3.
    pub cpl: u8,
    /// In HLT.
    pub halted: bool,
    /// Never started, or reset and not started again.
    pub waiting_for_startup: bool,
    /// The bytes at RIP, as far as they can be read: at most 15.
    pub instruction: Vec<u8>,
    /// What it did.
    pub counters: Counters,
}

/// Why and where a guest stopped; `Display` is for a person.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CrashReport {
    /// Why.
    pub reason: StopReason,
    /// Each vCPU's last state.
    pub vcpus: Vec<VcpuState>,
    /// RIP of each vCPU as `function+0xoffset/0xsize`, where the kernel file has symbols.
    pub locations: Vec<Option<String>>,
    /// The last console lines.
    pub console: Vec<String>,
}

impl CrashReport {
    pub(crate) fn new(
        reason: StopReason,
        vcpus: Vec<VcpuState>,
        symbols: &Symbols,
        console: Vec<String>,
    ) -> Self {
        let locations = vcpus
            .iter()
            .map(|vcpu| {
                symbols
                    .resolve(vcpu.regs.rip)
                    .map(|symbol| symbol.to_string())
            })
            .collect();
        Self {
            reason,
            vcpus,
            locations,
            console,
        }
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.reason)?;
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            let location = self.locations.get(index).and_then(Option::as_deref);
            write_vcpu(f, vcpu, location)?;
        }
        if self.console.is_empty() {
            return writeln!(f, "\nThe guest wrote nothing to its console.");
        }
        writeln!(f, "\nLast console lines:")?;
        for line in &self.console {
            writeln!(f, "  {line}")?;
        }
        Ok(())
    }
}

fn write_vcpu(f: &mut fmt::Formatter<'_>, vcpu: &VcpuState, location: Option<&str>) -> fmt::Result {
    if vcpu.waiting_for_startup {
        return writeln!(f, "\nvCPU {}: waits for a start-up IPI", vcpu.cpu);
    }
    let r = &vcpu.regs;
    let halted = if vcpu.halted { ", in HLT" } else { "" };
    let location = location.unwrap_or("no symbol");
    writeln!(
        f,
        "\nvCPU {}: CPL {}{halted}, RIP {:#018x} {location}",
        vcpu.cpu, vcpu.cpl, r.rip
    )?;
    for row in [
        [
            ("RAX", r.rax),
            ("RBX", r.rbx),
            ("RCX", r.rcx),
            ("RDX", r.rdx),
        ],
        [
            ("RSI", r.rsi),
            ("RDI", r.rdi),
            ("RBP", r.rbp),
            ("RSP", r.rsp),
        ],
        [("R8 ", r.r8), ("R9 ", r.r9), ("R10", r.r10), ("R11", r.r11)],
        [
            ("R12", r.r12),
            ("R13", r.r13),
            ("R14", r.r14),
            ("R15", r.r15),
        ],
    ] {
        f.write_str(" ")?;
        for (name, value) in row {
            write!(f, " {name} {value:016x}")?;
        }
        writeln!(f)?;
    }
    writeln!(
        f,
        "  RFLAGS {:08x} CR2 {:016x} CR3 {:016x}",
        r.rflags, vcpu.cr2, vcpu.cr3
    )?;
    if vcpu.instruction.is_empty() {
        return writeln!(f, "  code: cannot be read");
    }
    f.write_str("  code:")?;
    for byte in &vcpu.instruction {
        write!(f, " {byte:02x}")?;
    }
    writeln!(f)
}
