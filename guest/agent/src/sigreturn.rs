//! Returns to user space that are not the plain ones: an IRET that faults, one by a stack segment of 16
//! bits, and one that does both.
//!
//! `rt_sigreturn` is the one system call after which the kernel loads whatever segments the caller wants:
//! those of a signal frame, here one that no signal made. A CS that there is not raises #GP on the IRET, which
//! the kernel takes as if it had come from user space (`.Lerror_bad_iret` of arch/x86/entry/entry_64.S). An SS
//! of the local descriptor table makes it return by a stack of its own (`native_irq_return_ldt`), which is
//! read-only there: an IRET that faults on it raises a double fault.
#![expect(unsafe_code, reason = "a signal frame made by hand")]

use std::arch::asm;
use std::mem::{self, offset_of};
use std::sync::atomic::Ordering;

use ipirig_abi::Order;

use crate::exception::once;
use crate::signals::{EXPECTED, SS_STRICT};
use ipirig_system::Errno;

/// Selectors of user code and data of 64 bits (`__USER_CS`, `__USER_DS` of arch/x86/include/asm/segment.h).
const CODE: u16 = 0x33;
const DATA: u16 = 0x2b;
/// Beyond any global descriptor table of Linux.
const NONE: u16 = 0xfffb;
/// The first entry of the local descriptor table, for CPL 3.
const LOCAL: u16 = 7;

/// Vector of #GP, which is what the kernel makes of the double fault as well.
const GENERAL_PROTECTION: u8 = 13;
/// RFLAGS with IF, and the bit that is always set (SDM vol. 1, 3.4.3).
const FLAGS: i64 = 0x202;

/// Registers in the frame, by their places in bytes.
const fn place(register: libc::c_int) -> usize {
    offset_of!(libc::ucontext_t, uc_mcontext)
        + offset_of!(libc::mcontext_t, gregs)
        + 8 * register as usize
}

/// An entry of the local descriptor table (`struct user_desc` of arch/x86/include/uapi/asm/ldt.h).
#[repr(C)]
struct Descriptor {
    entry: u32,
    base: u32,
    limit: u32,
    /// From bit 0: 32 bits, contents (2 bits), read only, limit in pages, not present, usable.
    flags: u32,
}

/// What a return needs that is not plain.
#[derive(Debug)]
pub(crate) struct Returns {
    frame: Box<libc::ucontext_t>,
    /// Whether there is a stack segment of 16 bits.
    local: bool,
}

impl Returns {
    /// Gives the calling process a stack segment of 16 bits, if the kernel lets it.
    pub(crate) fn prepare() -> Self {
        let descriptor = Descriptor {
            entry: 0,
            base: 0,
            limit: 0xffff,
            flags: 1 << 6,
        };
        // SAFETY: the kernel reads the descriptor, 16 bytes of it; 1 is to write one.
        let done = unsafe {
            libc::syscall(
                libc::SYS_modify_ldt,
                1,
                &raw const descriptor,
                size_of::<Descriptor>(),
            )
        };
        // SAFETY: all zeroes is a valid `ucontext_t`.
        let mut frame: Box<libc::ucontext_t> = Box::new(unsafe { mem::zeroed() });
        frame.uc_flags = SS_STRICT;
        frame.uc_stack.ss_flags = libc::SS_DISABLE;
        Self {
            frame,
            local: done == 0,
        }
    }

    /// One `rt_sigreturn`, of the kind that `order` says. EPROTO unless that came of it.
    pub(crate) fn carry_out(&mut self, order: Order) -> Result<(), Errno> {
        match order {
            Order::BadIret => self.faults(order, DATA),
            Order::Espfix if self.local => {
                let ss = self.sigreturn(CODE, LOCAL);
                if ss == LOCAL {
                    Ok(())
                } else {
                    Err(Errno(libc::EPROTO))
                }
            }
            Order::DoubleFault if self.local => self.faults(order, LOCAL),
            _ => Err(Errno(libc::EPROTO)),
        }
    }

    fn faults(&mut self, order: Order, ss: u16) -> Result<(), Errno> {
        let flat = i64::from(CODE) | i64::from(DATA) << 48;
        EXPECTED.segments.store(flat, Ordering::Relaxed);
        let done = once(order, GENERAL_PROTECTION, || {
            self.sigreturn(NONE, ss);
        });
        EXPECTED.segments.store(0, Ordering::Relaxed);
        done
    }

    /// Returns with these segments to where it is called. The stack segment then, before it is the plain
    /// one again.
    fn sigreturn(&mut self, cs: u16, ss: u16) -> u16 {
        let registers = &mut self.frame.uc_mcontext.gregs;
        registers[libc::REG_CSGSFS as usize] = i64::from(cs) | i64::from(ss) << 48;
        registers[libc::REG_EFL as usize] = FLAGS;
        let came: u64;
        // SAFETY: the frame says that the next instruction is at label 2, with this stack and RBX and RBP
        // as they are. Where the return faults, the handler of `signals` goes on there. All other
        // registers are given up; the frame has no state of the FPU, which the kernel then resets. The
        // red zone is above what a signal uses.
        unsafe {
            asm!(
                "lea rax, [rip + 2f]",
                "mov [rdi + {rip}], rax",
                "mov [{expected} + {to}], rax",
                "dec rax",
                "mov [{expected} + {from}], rax",
                "mov [rdi + {rsp}], rsp",
                "mov [rdi + {rbx}], rbx",
                "mov [rdi + {rbp}], rbp",
                "mov rsp, rdi",
                "mov eax, {rt_sigreturn}",
                "syscall",
                "2:",
                "mov eax, ss",
                "mov ecx, {data}",
                "mov ss, ecx",
                expected = in(reg) &raw const EXPECTED,
                rip = const place(libc::REG_RIP),
                rsp = const place(libc::REG_RSP),
                rbx = const place(libc::REG_RBX),
                rbp = const place(libc::REG_RBP),
                from = const offset_of!(crate::signals::Stretch, from),
                to = const offset_of!(crate::signals::Stretch, to),
                rt_sigreturn = const libc::SYS_rt_sigreturn,
                data = const DATA as i32,
                in("rdi") &raw mut *self.frame,
                out("rax") came,
                out("r12") _,
                out("r13") _,
                out("r14") _,
                out("r15") _,
                clobber_abi("C"),
            );
        }
        EXPECTED.to.store(0, Ordering::Relaxed);
        came as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals;
    use ipirig_system::sys::{self, Fork};

    /// What becomes of an order, carried out twice, in a process of its own: its exit code.
    fn alone(order: Order) -> i32 {
        match sys::fork().unwrap() {
            Fork::Child => {
                let mut returns = Returns::prepare();
                let done = signals::handle()
                    .and_then(|()| returns.carry_out(order))
                    .and_then(|()| returns.carry_out(order));
                sys::exit(done.err().map_or(0, |errno| errno.0))
            }
            Fork::Parent(child) => {
                let status = sys::wait(child).unwrap();
                assert!(
                    libc::WIFEXITED(status),
                    "died of {}",
                    libc::WTERMSIG(status)
                );
                libc::WEXITSTATUS(status)
            }
        }
    }

    #[test]
    fn a_return_that_faults_is_survived_and_the_code_goes_on() {
        assert_eq!(alone(Order::BadIret), 0);
    }

    #[test]
    fn a_return_by_a_16_bit_stack_segment_comes_back_or_is_said_not_to_be_there() {
        for order in [Order::Espfix, Order::DoubleFault] {
            // By the kernel's configuration.
            let code = alone(order);
            assert!([0, libc::EPROTO].contains(&code), "{order:?}: {code}");
        }
    }

    #[test]
    fn no_other_order_is_a_return() {
        assert_eq!(alone(Order::Enter), libc::EPROTO);
    }
}
