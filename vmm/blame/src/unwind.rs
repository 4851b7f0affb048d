//! The walk up a kernel's stack.
//!
//! By ORC as arch/x86/kernel/unwind_orc.c does it, by frame pointers as unwind_frame.c does, from
//! outside: nothing is known of where stacks begin and end, so what keeps a walk from going on for
//! ever is that it has a limited number of frames, and of moves to another stack.

use std::fmt;

use ipirig_image::{KERNEL_HALF, OrcBase, OrcEntry, OrcKind, OrcTable};

use crate::chain::{Broken, Chain, End};
use crate::kernel::{Frames, Kernel};
use crate::memory::Memory;
use crate::prologue::{Prologue, Prologues};

/// Farthest that the next frame of one stack is taken to be: no frame of the kernel is as large.
const NEAR: u64 = 16 << 10;
/// Most moves from one stack to another: NMI, #DB, interrupt, task, and the entry stack before it.
const MAX_SWITCHES: u32 = 6;

/// Offsets in `struct pt_regs` (arch/x86/include/asm/ptrace.h).
const R13: usize = 2 * 8;
const RBP: usize = 4 * 8;
const R10: usize = 7 * 8;
const RAX: usize = 10 * 8;
const RDX: usize = 12 * 8;
const RDI: usize = 14 * 8;
const RIP: usize = 16 * 8;
/// Bytes of `struct pt_regs`.
const PT_REGS: usize = 21 * 8;
/// Offsets in what the CPU pushes for an interrupt (SDM vol. 3, figure 6-9).
const CS: usize = 8;
const RSP: usize = 3 * 8;
/// Bytes of it.
const INTERRUPT_FRAME: usize = 5 * 8;

/// The registers of a vCPU that is in the kernel.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct UnwindRegisters {
    /// RIP: the instruction that it executes, or the next one.
    pub rip: u64,
    /// RSP.
    pub rsp: u64,
    /// RBP.
    pub rbp: u64,
    /// RAX.
    pub rax: u64,
    /// RDX.
    pub rdx: u64,
    /// RDI.
    pub rdi: u64,
    /// R10.
    pub r10: u64,
    /// R13.
    pub r13: u64,
}

impl fmt::Debug for UnwindRegisters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rip {:#x} rsp {:#x} rbp {:#x} rax {:#x} rdx {:#x} rdi {:#x} r10 {:#x} r13 {:#x}",
            self.rip, self.rsp, self.rbp, self.rax, self.rdx, self.rdi, self.r10, self.r13
        )
    }
}

impl Kernel {
    /// The calls that led to `registers`, innermost first. `prologues` remembers what it finds of
    /// this kernel's code.
    #[must_use]
    pub fn unwind(
        &self,
        registers: &UnwindRegisters,
        memory: &dyn Memory,
        prologues: &mut Prologues,
    ) -> Chain {
        let mut chain = Chain::new(registers.rip, End::Cut(Broken::NoMethod));
        let mut walk = Walk {
            kernel: self,
            memory,
            chain: &mut chain,
            rsp: registers.rsp,
            rbp: registers.rbp,
            switches: 0,
        };
        let end = match self.frames() {
            Frames::Orc(table) => walk.by_orc(registers, table),
            Frames::Pointers => walk.by_frame_pointers(registers.rip, prologues),
            Frames::Unknown(_) => return chain,
        };
        chain.end = match end {
            Ok(end) => end,
            Err(broken) => End::Cut(broken),
        };
        chain
    }
}

/// On the way up a stack.
struct Walk<'a> {
    kernel: &'a Kernel,
    memory: &'a dyn Memory,
    chain: &'a mut Chain,
    rsp: u64,
    rbp: u64,
    switches: u32,
}

/// What an interrupt or an entry from user space saved.
enum Saved {
    /// User space was left here.
    User,
    /// A kernel thread began here: nothing was saved.
    Nothing,
    /// The kernel was interrupted at this RIP, with this RSP.
    Kernel(u64, u64),
}

impl Walk<'_> {
    fn by_orc(&mut self, registers: &UnwindRegisters, table: &OrcTable) -> Result<End, Broken> {
        let mut rip = registers.rip;
        let mut known = Some(*registers);
        let mut exact = true;
        loop {
            // A call that does not return may be the last of its function: the table is right for the
            // call, not for what comes after it.
            let at = if exact { rip } else { rip.wrapping_sub(1) };
            let entry = self.kernel.orc(at, table);
            let entry = entry.unwrap_or(OrcEntry::FRAME_POINTER);
            match entry.kind {
                OrcKind::EndOfStack => return Ok(End::Start),
                OrcKind::Undefined => return Err(Broken::Undefined),
                OrcKind::Unknown(_) => return Err(Broken::BadEntry),
                OrcKind::Call | OrcKind::Registers | OrcKind::InterruptFrame => {}
            }
            exact = entry.signal;
            let top = self.top(&entry, known.as_ref())?;
            let next = match entry.kind {
                OrcKind::Registers | OrcKind::InterruptFrame => {
                    let full = entry.kind == OrcKind::Registers;
                    let saved = if full {
                        let (saved, registers) = self.pt_regs(top)?;
                        known = Some(registers);
                        saved
                    } else {
                        self.interrupt_frame(top)?
                    };
                    match saved {
                        Saved::User => return Ok(End::User),
                        Saved::Nothing => return Ok(End::Start),
                        Saved::Kernel(next, rsp) => {
                            rip = next;
                            self.chain.interrupt();
                            rsp
                        }
                    }
                }
                _ => {
                    rip = self.word(top.wrapping_sub(8))?;
                    known = None;
                    top
                }
            };
            self.rbp = match entry.bp {
                OrcBase::PreviousSp => self.word(offset(top, entry.bp_offset))?,
                OrcBase::Bp => self.word(offset(self.rbp, entry.bp_offset))?,
                OrcBase::Undefined => match (entry.kind, &known) {
                    (OrcKind::Registers, Some(registers)) => registers.rbp,
                    _ => self.rbp,
                },
                _ => return Err(Broken::BadEntry),
            };
            self.move_to(next)?;
            self.push(rip)?;
        }
    }

    /// The end of the frame that `entry` describes: the caller's stack pointer, or the address of
    /// what was saved.
    fn top(&self, entry: &OrcEntry, known: Option<&UnwindRegisters>) -> Result<u64, Broken> {
        let by = entry.sp_offset;
        let known = known.ok_or(Broken::BadEntry);
        match entry.sp {
            OrcBase::Sp => Ok(offset(self.rsp, by)),
            OrcBase::Bp => Ok(offset(self.rbp, by)),
            OrcBase::SpIndirect => Ok(offset(self.word(self.rsp)?, by)),
            OrcBase::BpIndirect => self.word(offset(self.rbp, by)),
            OrcBase::R10 => Ok(known?.r10),
            OrcBase::R13 => Ok(known?.r13),
            OrcBase::Di => Ok(known?.rdi),
            OrcBase::Dx => Ok(known?.rdx),
            OrcBase::Ax => Ok(known?.rax),
            OrcBase::Undefined | OrcBase::PreviousSp | OrcBase::Unknown(_) => Err(Broken::BadEntry),
        }
    }

    fn by_frame_pointers(
        &mut self,
        mut rip: u64,
        prologues: &mut Prologues,
    ) -> Result<End, Broken> {
        loop {
            if let Prologue::Frameless(above) = prologues.at(rip, self.kernel, self.memory) {
                let at = self.rsp.wrapping_add(above);
                let caller = self.word(at)?;
                self.move_to(at.wrapping_add(8))?;
                self.push(caller)?;
            }
            match self.frames_up_to_interrupt()? {
                Saved::User => return Ok(End::User),
                Saved::Nothing => return Ok(End::Start),
                Saved::Kernel(interrupted, rsp) => {
                    rip = interrupted;
                    self.chain.interrupt();
                    self.move_to(rsp)?;
                    self.push(rip)?;
                }
            }
        }
    }

    /// Follows RBP from frame to frame. Entry code leaves there the address of a `struct pt_regs`
    /// with its lowest bit set (ENCODE_FRAME_POINTER), or 0 for a system call.
    fn frames_up_to_interrupt(&mut self) -> Result<Saved, Broken> {
        loop {
            if self.rbp & 1 == 1 {
                let (saved, registers) = self.pt_regs(self.rbp & !1)?;
                self.rbp = registers.rbp;
                return Ok(saved);
            }
            if self.rbp == 0 {
                // What lies above the last frame is what the entry from user space saved, unless a CPU
                // began here.
                let user = matches!(self.pt_regs(self.rsp), Ok((Saved::User, _)));
                return Ok(if user { Saved::User } else { Saved::Nothing });
            }
            if self.rbp < KERNEL_HALF || !self.rbp.is_multiple_of(8) {
                return Err(Broken::NoFramePointer);
            }
            let (frame, caller) = (self.rbp, self.rbp.wrapping_add(8));
            let (saved, caller) = (self.word(frame)?, self.word(caller)?);
            self.move_to(frame.wrapping_add(16))?;
            self.rbp = saved;
            self.push(caller)?;
        }
    }

    /// Goes on at `rsp`: upwards on this stack, or on another one.
    fn move_to(&mut self, rsp: u64) -> Result<(), Broken> {
        let far = rsp.wrapping_sub(self.rsp);
        if far == 0 || far > NEAR {
            self.switches += 1;
        }
        if self.switches > MAX_SWITCHES {
            return Err(Broken::NoProgress);
        }
        self.rsp = rsp;
        Ok(())
    }

    fn push(&mut self, address: u64) -> Result<(), Broken> {
        if address < KERNEL_HALF {
            return Err(Broken::NoReturnAddress);
        }
        if self.chain.push(address) {
            Ok(())
        } else {
            Err(Broken::TooLong)
        }
    }

    fn word(&self, address: u64) -> Result<u64, Broken> {
        let [word] = self.words(address)?;
        Ok(word)
    }

    fn words<const N: usize>(&self, address: u64) -> Result<[u64; N], Broken> {
        // A kernel stack is in the kernel's half; what is below is the user's to make up.
        let mut bytes = [[0; 8]; N];
        if address < KERNEL_HALF || !self.memory.read(address, bytes.as_flattened_mut()) {
            return Err(Broken::Unreadable);
        }
        Ok(bytes.map(u64::from_le_bytes))
    }

    fn pt_regs(&self, address: u64) -> Result<(Saved, UnwindRegisters), Broken> {
        let words: [u64; PT_REGS / 8] = self.words(address)?;
        let at = |offset: usize| words.get(offset / 8).copied().unwrap_or_default();
        let registers = UnwindRegisters {
            rip: at(RIP),
            rsp: at(RIP + RSP),
            rbp: at(RBP),
            rax: at(RAX),
            rdx: at(RDX),
            rdi: at(RDI),
            r10: at(R10),
            r13: at(R13),
        };
        Ok((saved(at(RIP), at(RIP + CS), at(RIP + RSP)), registers))
    }

    fn interrupt_frame(&self, address: u64) -> Result<Saved, Broken> {
        let words: [u64; INTERRUPT_FRAME / 8] = self.words(address)?;
        let at = |offset: usize| words.get(offset / 8).copied().unwrap_or_default();
        Ok(saved(at(0), at(CS), at(RSP)))
    }
}

fn saved(rip: u64, cs: u64, rsp: u64) -> Saved {
    match (cs & 3, rip) {
        (3, _) => Saved::User,
        // A kernel thread's registers were never saved: they are all 0 (copy_thread() of
        // arch/x86/kernel/process.c).
        (_, 0) => Saved::Nothing,
        _ => Saved::Kernel(rip, rsp),
    }
}

fn offset(base: u64, by: i16) -> u64 {
    base.wrapping_add_signed(by.into())
}

#[cfg(test)]
mod tests;
