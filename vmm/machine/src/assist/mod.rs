//! Host quirks: what a probe guest finds amiss on this host, and what the machine does about it.
//!
//! One file a quirk, one line in [`QUIRKS`]. A quirk that is not found costs nothing: no assist is
//! installed, nothing is hidden and the command line stays as it was.

use std::collections::BTreeMap;
use std::fmt;

use kvm_ioctls::VcpuFd;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::errno;

use crate::probe::{Outcome, ProbeError, Prober};

mod cmpxchg16b;
mod fwait;
mod int3;
mod privileged;
mod slow_kernel;
mod syscall;
mod tsc_writes;

/// Every quirk that is looked for, in the order of `ipirig doctor`.
pub(crate) const QUIRKS: &[Quirk] = &[
    slow_kernel::QUIRK,
    int3::QUIRK,
    fwait::QUIRK,
    syscall::QUIRK,
    cmpxchg16b::QUIRK,
    privileged::QUIRK,
    tsc_writes::QUIRK,
];

/// A machine with more vCPUs than this is crowded. `slow_kernel` says the number to people.
pub(crate) const CROWD: usize = 4;

/// Something that a KVM may get wrong.
#[derive(Debug)]
pub(crate) struct Quirk {
    /// Short name, as printed.
    pub(crate) name: &'static str,
    /// What is tried.
    pub(crate) what: &'static str,
    /// Tries it.
    pub(crate) probe: fn(&Prober<'_>) -> Result<Finding, ProbeError>,
}

/// What a probe found, and what follows.
#[derive(Debug, Default)]
pub(crate) struct Finding {
    /// One line for a person.
    pub(crate) text: String,
    /// What to do about it; `None` where the host does the right thing.
    pub(crate) remedy: Option<Remedy>,
}

impl Finding {
    /// For a probe that ends as `wanted` where the host does the right thing, which `fine` says in
    /// words; else `remedy` is due.
    fn expect(outcome: &Outcome, wanted: &Outcome, fine: &str, remedy: Remedy) -> Self {
        if outcome == wanted {
            return Self {
                text: fine.to_owned(),
                remedy: None,
            };
        }
        Self {
            text: format!("does not: {outcome}"),
            remedy: Some(remedy),
        }
    }
}

/// What the machine does about a quirk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Remedy {
    /// One line for a person.
    pub(crate) text: &'static str,
    /// Makes the assist of one vCPU.
    pub(crate) assist: Option<fn() -> Box<dyn Assist>>,
    /// Kernel parameters to add, space separated.
    pub(crate) cmdline: String,
    /// More of them for a machine of more than [`CROWD`] vCPUs.
    pub(crate) crowded: &'static str,
    /// CPUID features to clear.
    pub(crate) hide: Vec<Feature>,
    /// Nanoseconds that must pass between two timer interrupts of a vCPU at work.
    pub(crate) timer_slack_ns: u64,
}

/// One feature bit of a CPUID leaf (SDM vol. 2, CPUID).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Feature {
    /// EAX on input.
    pub(crate) leaf: u32,
    /// ECX on input; 0 for a leaf that has no subleaves.
    pub(crate) subleaf: u32,
    /// The output register.
    pub(crate) register: Register,
    /// Bit number, 0 to 31.
    pub(crate) bit: u8,
}

impl Feature {
    /// A feature of a leaf without subleaves, or of its subleaf 0.
    pub(crate) const fn new(leaf: u32, register: Register, bit: u8) -> Self {
        Self::of_subleaf(leaf, 0, register, bit)
    }

    /// A feature of a subleaf.
    pub(crate) const fn of_subleaf(leaf: u32, subleaf: u32, register: Register, bit: u8) -> Self {
        Self {
            leaf,
            subleaf,
            register,
            bit,
        }
    }

    /// Whether it is set in what CPUID returned for its leaf and subleaf.
    pub(crate) fn is_set(self, returned: CpuidRegisters) -> bool {
        let register = match self.register {
            Register::Eax => returned.eax,
            Register::Ebx => returned.ebx,
            Register::Ecx => returned.ecx,
            Register::Edx => returned.edx,
        };
        register >> self.bit & 1 == 1
    }
}

/// What one CPUID instruction returned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuidRegisters {
    pub(crate) eax: u32,
    pub(crate) ebx: u32,
    pub(crate) ecx: u32,
    pub(crate) edx: u32,
}

/// An output register of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// The vCPU as an assist may touch it.
#[derive(Debug)]
pub(crate) struct Cpu<'a> {
    pub(crate) fd: &'a VcpuFd,
    pub(crate) memory: &'a GuestMemoryMmap,
}

impl Cpu<'_> {
    /// Reads `buffer.len()` bytes at a guest-virtual address through the vCPU's current page
    /// tables; `false` where nothing is mapped there.
    pub(crate) fn read_virtual(&self, address: u64, buffer: &mut [u8]) -> bool {
        let mut done = 0;
        while done < buffer.len() {
            let Some(at) = address.checked_add(done as u64) else {
                return false;
            };
            let in_page = (0x1000 - (at & 0xfff)) as usize;
            let end = buffer.len().min(done + in_page);
            let Ok(translation) = self.fd.translate_gva(at) else {
                return false;
            };
            if translation.valid == 0 {
                return false;
            }
            let Some(part) = buffer.get_mut(done..end) else {
                return false;
            };
            let physical = GuestAddress::new(translation.physical_address);
            if self.memory.read_slice(part, physical).is_err() {
                return false;
            }
            done = end;
        }
        true
    }
}

/// Whether an assist dealt with an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handled {
    Yes,
    No,
}

/// A work-around that runs on one vCPU's thread. Every method has a default that does nothing.
pub(crate) trait Assist: Send + fmt::Debug {
    /// The quirk's name; counters are kept by it.
    fn name(&self) -> &'static str;

    /// MSRs whose writes must come to [`Assist::msr_write`]: first and number.
    fn msrs(&self) -> Option<(u32, u32)> {
        None
    }

    /// KVM could not emulate `instruction`, at RIP.
    fn emulation_failure(
        &mut self,
        _cpu: &Cpu<'_>,
        _instruction: &[u8],
    ) -> Result<Handled, errno::Error> {
        Ok(Handled::No)
    }

    /// The guest wrote one of [`Assist::msrs`], and KVM has taken it.
    fn msr_write(&mut self, _cpu: &Cpu<'_>, _msr: u32, _value: u64) -> Result<(), errno::Error> {
        Ok(())
    }

    /// Where the vCPU must stop for [`Assist::reached`]. Asked after each call of another method.
    fn breakpoint(&self) -> Option<u64> {
        None
    }

    /// The vCPU is about to execute the instruction at [`Assist::breakpoint`]. `Yes`: RIP is another
    /// now, at the first instruction of the kernel's system-call entry.
    fn reached(&mut self, _cpu: &Cpu<'_>) -> Result<Handled, errno::Error> {
        Ok(Handled::No)
    }

    /// Called now and then between exits, for what no exit announces.
    fn look(&mut self, _cpu: &Cpu<'_>) -> Result<(), errno::Error> {
        Ok(())
    }
}

/// Bytes of an IDT entry in 64-bit mode (SDM vol. 3, figure 6-8).
const GATE: usize = 16;
/// Entries of an IDT.
const GATES: usize = 256;

/// The handler in entry `vector` of the IDT, if the guest has one.
pub(crate) fn handler(cpu: &Cpu<'_>, vector: u8) -> Result<Option<u64>, errno::Error> {
    let idt = cpu.fd.get_sregs()?.idt;
    let offset = u64::from(vector) * GATE as u64;
    if u64::from(idt.limit) < offset + 15 {
        return Ok(None);
    }
    let mut gate = [0; GATE];
    let Some(address) = idt.base.checked_add(offset) else {
        return Ok(None);
    };
    Ok(if cpu.read_virtual(address, &mut gate) {
        target(gate)
    } else {
        None
    })
}

/// All handlers of the IDT, by vector; none where it cannot be read.
pub(crate) fn handlers(cpu: &Cpu<'_>) -> Result<BTreeMap<u8, u64>, errno::Error> {
    let idt = cpu.fd.get_sregs()?.idt;
    let mut table = vec![0; (usize::from(idt.limit) + 1).min(GATE * GATES)];
    if !cpu.read_virtual(idt.base, &mut table) {
        return Ok(BTreeMap::new());
    }
    let (gates, _) = table.as_chunks();
    Ok((0..=u8::MAX)
        .zip(gates)
        .filter_map(|(vector, gate)| Some((vector, target(*gate)?)))
        .collect())
}

/// Where a gate goes, if it is present (SDM vol. 3, figure 6-8).
fn target(gate: [u8; GATE]) -> Option<u64> {
    let gate = u128::from_le_bytes(gate);
    let offset = (gate & 0xffff) | (gate >> 48 & 0xffff) << 16 | (gate >> 64 & 0xffff_ffff) << 32;
    if gate >> 47 & 1 == 1 {
        u64::try_from(offset).ok()
    } else {
        None
    }
}

/// Moves RIP past `length` bytes.
fn skip(cpu: &Cpu<'_>, length: u64) -> Result<(), errno::Error> {
    let mut regs = cpu.fd.get_regs()?;
    regs.rip = regs.rip.wrapping_add(length);
    cpu.fd.set_regs(&regs)
}
