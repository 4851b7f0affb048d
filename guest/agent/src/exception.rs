//! One exception each, from user space, on purpose.
//!
//! No function makes a system call of its own: the exception is its first kernel entry. Each gives
//! EPROTO unless the exception came exactly once, by its vector and as the signal that Linux makes of
//! it.
#![expect(unsafe_code, reason = "instructions that raise exceptions")]

use std::arch::asm;
use std::mem::offset_of;
use std::sync::atomic::Ordering;

use ipirig_abi::Order;

use crate::signals::{ALIGNMENT_CHECK, EXPECTED, Stretch, TRAP_FLAG};
use ipirig_system::Errno;

/// Runs the instructions between labels 2 and 3 as the expected stretch.
macro_rules! run {
    ([$($before:literal),*] [$($inside:literal),*] $($operands:tt)*) => {{
        // SAFETY: the first four instructions tell the handler of `signals` where the stretch is.
        // An exception in it comes back inside it or at its end, with nothing changed but RFLAGS;
        // the callers below leave the stack as it was.
        unsafe {
            asm!(
                "lea {at}, [rip + 2f]",
                "mov [{stretch} + {from}], {at}",
                "lea {at}, [rip + 3f]",
                "mov [{stretch} + {to}], {at}",
                $($before,)*
                "2:",
                $($inside,)*
                "3:",
                stretch = in(reg) &raw const EXPECTED,
                at = out(reg) _,
                from = const offset_of!(Stretch, from),
                to = const offset_of!(Stretch, to),
                $($operands)*
            );
        }
        EXPECTED.to.store(0, Ordering::Relaxed);
    }};
}

/// #GP: HLT needs CPL 0 (SDM vol. 2, "HLT").
pub(crate) fn general_protection() -> Result<(), Errno> {
    once(Order::GeneralProtection, 13, || run!([]["hlt"]))
}

/// #UD: what UD2 is for (SDM vol. 2, "UD").
pub(crate) fn invalid_opcode() -> Result<(), Errno> {
    once(Order::InvalidOpcode, 6, || run!([]["ud2"]))
}

/// #BP: a trap, so RIP is past it (SDM vol. 2, "INT n").
pub(crate) fn breakpoint() -> Result<(), Errno> {
    once(Order::Breakpoint, 3, || run!([]["int3"]))
}

/// #DB: the trap comes after the instruction that follows the POPF that sets TF (SDM vol. 3,
/// "Single-Step Exception Condition"). Where none comes, the second POPF clears TF.
pub(crate) fn single_step() -> Result<(), Errno> {
    once(Order::SingleStep, 1, || {
        run!(
            ["pushfq", "pop {clear}", "mov {set}, {clear}", "or {set}, {tf}", "push {set}", "popfq"]
            ["nop", "push {clear}", "popfq"]
            clear = out(reg) _,
            set = out(reg) _,
            tf = const TRAP_FLAG,
        );
    })
}

/// One 32-bit system call by INT 0x80, without arguments: what RAX is afterwards.
pub(crate) fn int80(number: u32) -> u32 {
    let answer: u64;
    run!(
        []
        ["int 0x80"]
        inlateout("rax") u64::from(number) => answer,
        // Some kernels clear them.
        out("r8") _,
        out("r9") _,
        out("r10") _,
        out("r11") _,
    );
    answer as u32
}

/// #AC: a misaligned access at CPL 3 with RFLAGS.AC set, which Linux lets be checked (CR0.AM; SDM vol.
/// 3, "Interrupt 17").
pub(crate) fn alignment_check() -> Result<(), Errno> {
    let place = [0_u64; 2];
    once(Order::AlignmentCheck, 17, || {
        run!(
            ["pushfq", "pop {clear}", "mov {set}, {clear}", "or {set}, {ac}", "push {set}", "popfq"]
            ["mov {set}, [{place} + 1]", "push {clear}", "popfq"]
            clear = out(reg) _,
            set = out(reg) _,
            place = in(reg) place.as_ptr(),
            ac = const ALIGNMENT_CHECK,
        );
    })
}

/// Has `raise` do what raises the exception that the kernel's signal frame calls `vector`.
pub(crate) fn once(order: Order, vector: u8, raise: impl FnOnce()) -> Result<(), Errno> {
    let told = i64::from(vector);
    let before = EXPECTED.raised.load(Ordering::Relaxed);
    raise();
    let raised = EXPECTED.raised.load(Ordering::Relaxed).wrapping_sub(before);
    let signal = EXPECTED.signal.load(Ordering::Relaxed);
    let vector = EXPECTED.vector.load(Ordering::Relaxed);
    if raised == 1 && (Some(signal), vector) == (order.signal(), told) {
        Ok(())
    } else {
        Err(Errno(libc::EPROTO))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;
    use crate::signals::{self, Signals};
    use ipirig_system::sys::{self, Fork};

    /// The handlers' statics are the process's.
    static ALONE: Mutex<()> = Mutex::new(());

    fn alone<T>(run: impl FnOnce() -> T) -> T {
        let _guard = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        signals::handle().unwrap();
        run()
    }

    #[test]
    fn each_exception_comes_once_and_the_code_goes_on() {
        alone(|| {
            for (raise, signal) in [
                (general_protection as fn() -> _, libc::SIGSEGV),
                (invalid_opcode, libc::SIGILL),
                (single_step, libc::SIGTRAP),
                (breakpoint, libc::SIGTRAP),
                (alignment_check, libc::SIGBUS),
            ] {
                for _ in 0..2 {
                    let before = signals::handled();
                    assert_eq!(raise(), Ok(()));
                    let after = Signals {
                        count: before.count + 1,
                        newest: signal.unsigned_abs(),
                    };
                    assert_eq!(signals::handled(), after);
                    assert_eq!(EXPECTED.to.load(Ordering::Relaxed), 0);
                }
            }
        });
    }

    #[test]
    fn after_a_single_step_nothing_steps() {
        alone(|| {
            assert_eq!(single_step(), Ok(()));
            let flags: i64;
            // SAFETY: reads RFLAGS; the stack is as it was.
            unsafe { asm!("pushfq", "pop {flags}", flags = out(reg) flags) };
            assert_eq!(flags & TRAP_FLAG, 0);
        });
    }

    #[test]
    fn an_exception_that_does_not_come_or_comes_otherwise_is_no_success() {
        alone(|| {
            let nothing = once(Order::InvalidOpcode, 6, || run!([]["nop"]));
            assert_eq!(nothing, Err(Errno(libc::EPROTO)));
            let another = once(Order::InvalidOpcode, 6, || run!([]["hlt"]));
            assert_eq!(another, Err(Errno(libc::EPROTO)));
            let another = once(Order::SingleStep, 1, || run!([]["int3"]));
            assert_eq!(another, Err(Errno(libc::EPROTO)));
            let twice = once(Order::InvalidOpcode, 6, || {
                run!([]["ud2"]);
                run!([]["ud2"]);
            });
            assert_eq!(twice, Err(Errno(libc::EPROTO)));
        });
    }

    #[test]
    fn a_kick_is_counted() {
        alone(|| {
            let before = signals::handled();
            signals::raise();
            let after = Signals {
                count: before.count + 1,
                newest: libc::SIGUSR1.unsigned_abs(),
            };
            assert_eq!(signals::handled(), after);
        });
    }

    /// The signal that ends a process that does this with the handlers installed; 0 if it exits.
    fn death(of: fn()) -> i32 {
        alone(|| match sys::fork().unwrap() {
            Fork::Child => {
                of();
                sys::exit(0)
            }
            Fork::Parent(child) => {
                let mut status = 0;
                // SAFETY: the kernel writes one `int`.
                assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
                libc::WTERMSIG(status)
            }
        })
    }

    #[test]
    fn an_exception_that_nobody_ordered_is_as_deadly_as_without_a_handler() {
        let null = || {
            let null = std::hint::black_box(std::ptr::null::<u8>());
            // SAFETY: none; the process dies of it.
            unsafe { null.read_volatile() };
        };
        assert_eq!(death(null), libc::SIGSEGV);
        // SAFETY: none; the process dies of it.
        assert_eq!(death(|| unsafe { asm!("ud2") }), libc::SIGILL);
        // SAFETY: none; the process dies of it.
        assert_eq!(death(|| unsafe { asm!("int3") }), libc::SIGTRAP);
        let sent = || {
            let _ = sys::kill(std::process::id().cast_signed(), libc::SIGSEGV);
        };
        assert_eq!(death(sent), libc::SIGSEGV);
        let outside = || {
            run!([]["nop"]);
            // SAFETY: none; the process dies of it.
            unsafe { asm!("hlt") };
        };
        assert_eq!(death(outside), libc::SIGSEGV);
        assert_eq!(death(|| ()), 0);
    }
}
