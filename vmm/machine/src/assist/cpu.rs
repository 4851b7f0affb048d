//! What an assist can do, and to what: one vCPU, on its own thread.

use std::collections::BTreeMap;
use std::fmt;

use kvm_ioctls::VcpuFd;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::errno;

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

/// A workaround that runs on one vCPU's thread. Every method has a default that does nothing.
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

    /// The vCPU has just got the registers of a saved one.
    fn restored(&mut self, _cpu: &Cpu<'_>) -> Result<(), errno::Error> {
        Ok(())
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
pub(super) fn skip(cpu: &Cpu<'_>, length: u64) -> Result<(), errno::Error> {
    let mut regs = cpu.fd.get_regs()?;
    regs.rip = regs.rip.wrapping_add(length);
    cpu.fd.set_regs(&regs)
}
