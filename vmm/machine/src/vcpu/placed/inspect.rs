//! What a vCPU that follows an event is about to execute, with as few ioctls as can be.

use ipirig_entry::passage::Frame;
use ipirig_instruction::Step;
use kvm_bindings::{kvm_regs, kvm_sregs};
use vm_memory::{Bytes, GuestAddress};

use super::super::recorder;
use super::super::{Break, Vcpu};
use crate::assist::Cpu;

impl Vcpu {
    /// The vCPU's registers are others than at its last exit.
    pub(in crate::vcpu) fn registers_changed(&mut self) {
        if let Some(placing) = &mut self.placing {
            placing.synced = false;
        }
    }

    /// What the vCPU is about to execute, with as few ioctls as can be.
    pub(super) fn look_along(&mut self) -> Result<Step, Break> {
        let synced = self.placing.as_ref().is_some_and(|placing| placing.synced);
        let (regs, sregs): (kvm_regs, kvm_sregs) = if synced {
            let left = self.fd.sync_regs();
            (left.regs, left.sregs)
        } else {
            (self.regs()?, self.sregs()?)
        };
        let Some(placing) = &mut self.placing else {
            return Ok(recorder::step(&regs, &sregs, |_, _| false));
        };
        let (fd, memory, pages) = (&self.fd, &self.vcpu_set.memory, &mut placing.pages);
        let translate = |page: u64| {
            let found = fd.translate_gva(page).ok();
            found
                .filter(|it| it.valid != 0)
                .map(|it| it.physical_address)
        };
        Ok(recorder::step(&regs, &sregs, |address, buffer| {
            let (page, offset) = (address & !0xfff, address & 0xfff);
            let whole = offset as usize + buffer.len() <= 0x1000;
            if !whole {
                let cpu = Cpu { fd, memory };
                return cpu.read_virtual(address, buffer);
            }
            let at = *pages
                .entry((sregs.cr3, page))
                .or_insert_with(|| translate(page));
            at.is_some_and(|at| memory.read_slice(buffer, GuestAddress(at + offset)).is_ok())
        }))
    }

    /// The byte that is written down with each instruction.
    pub(super) fn flag(&self) -> Option<u8> {
        let address = self.placing.as_ref()?.at.flag?;
        let mut byte = [0];
        let memory = &self.vcpu_set.memory;
        memory.read_slice(&mut byte, GuestAddress(address)).ok()?;
        Some(byte[0])
    }

    pub(super) fn frame(&self, rsp: u64) -> Option<Frame> {
        let mut words = [[0; 8]; 5];
        self.access()
            .read_virtual(rsp, words.as_flattened_mut())
            .then(|| words.map(u64::from_le_bytes).into())
    }
}
