//! A vCPU that is in the middle of sending an IPI, or of taking an interrupt, as the observer may look at it.

use std::cell::Cell;

use ipirig_entry::paging::kernel_translation;
use kvm_bindings::kvm_regs;
use vm_memory::{Address, Bytes, GuestAddress};

use crate::assist::Cpu;
use crate::observer::{Sender, SenderRegisters, VirtualMemory};

/// Pages whose translation is remembered: a kernel's stack has four, and rarely more than two are
/// asked for.
const PAGES: usize = 4;
const PAGE: u64 = 0x1000;

/// See [`VirtualMemory`].
#[derive(Debug)]
pub(super) struct MappedMemory<'a> {
    cpu: Cpu<'a>,
    /// Virtual and physical address of pages that were looked up, and the place for the next one. The
    /// vCPU does not run meanwhile, so they stay right unless another one changes the page tables.
    pages: [Cell<Option<(u64, u64)>>; PAGES],
    next: Cell<usize>,
}

/// See [`Sender`].
#[derive(Debug)]
pub(super) struct SendingVcpu<'a> {
    memory: MappedMemory<'a>,
    regs: kvm_regs,
}

impl<'a> SendingVcpu<'a> {
    pub(super) fn new(cpu: Cpu<'a>, regs: kvm_regs) -> Self {
        let memory = MappedMemory::new(cpu);
        Self { memory, regs }
    }
}

impl<'a> MappedMemory<'a> {
    pub(super) fn new(cpu: Cpu<'a>) -> Self {
        Self {
            cpu,
            pages: Default::default(),
            next: Cell::new(0),
        }
    }

    /// The physical address of a virtual one.
    fn translate(&self, address: u64) -> Option<u64> {
        let (page, offset) = (address & !(PAGE - 1), address & (PAGE - 1));
        let mut known = self.pages.iter().filter_map(Cell::get);
        if let Some((_, physical)) = known.find(|(virtual_, _)| *virtual_ == page) {
            return Some(physical | offset);
        }
        let translation = self.cpu.fd.translate_gva(page).ok()?;
        let physical = if translation.valid != 0 {
            translation.physical_address
        } else {
            self.translate_by_the_kernel_s(page)?
        };
        let physical = physical & !(PAGE - 1);
        let place = self.next.get() % PAGES;
        if let Some(cell) = self.pages.get(place) {
            cell.set(Some((page, physical)));
        }
        self.next.set(place + 1);
        Some(physical | offset)
    }

    /// The same for a vCPU in user space, whose page table lacks the kernel.
    fn translate_by_the_kernel_s(&self, page: u64) -> Option<u64> {
        let sregs = self.cpu.fd.get_sregs().ok()?;
        kernel_translation(sregs.cr3, sregs.cr4, page, |at| {
            self.cpu.memory.read_obj(GuestAddress::new(at)).ok()
        })
    }
}

impl Sender for SendingVcpu<'_> {
    fn registers(&self) -> SenderRegisters {
        let regs = &self.regs;
        SenderRegisters {
            rip: regs.rip,
            rsp: regs.rsp,
            rbp: regs.rbp,
            rax: regs.rax,
            rdx: regs.rdx,
            rdi: regs.rdi,
            r10: regs.r10,
            r13: regs.r13,
        }
    }

    fn cr3(&self) -> Option<u64> {
        Some(self.memory.cpu.fd.get_sregs().ok()?.cr3)
    }
}

impl VirtualMemory for SendingVcpu<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        self.memory.read(address, buffer)
    }
}

impl VirtualMemory for MappedMemory<'_> {
    fn read(&self, address: u64, buffer: &mut [u8]) -> bool {
        let (mut at, mut rest) = (address, buffer);
        while !rest.is_empty() {
            let in_page = (PAGE - (at & (PAGE - 1))) as usize;
            let (part, others) = rest.split_at_mut(in_page.min(rest.len()));
            let read = self.translate(at).map(|physical| {
                self.cpu
                    .memory
                    .read_slice(part, GuestAddress::new(physical))
            });
            let next = at.checked_add(part.len() as u64);
            match (read, next) {
                (Some(Ok(())), Some(next)) => at = next,
                // Up to the last byte of the address space, and no further.
                (Some(Ok(())), None) => return others.is_empty(),
                _ => return false,
            }
            rest = others;
        }
        true
    }
}
