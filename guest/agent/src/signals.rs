//! The signals that an isolated task lives through: those of its orders and the rig's kick.
//!
//! Any other stays deadly, as without a handler.
#![expect(unsafe_code, reason = "signal handlers")]

use std::arch::asm;
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};

use ipirig_abi::KICK_SIGNAL;

use ipirig_system::Errno;

/// What the handlers counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Signals {
    /// How many there were.
    pub(crate) count: u64,
    /// Number of the newest, or 0.
    pub(crate) newest: u32,
}

// Written by handlers of the one thread alone, so plain loads and stores will do.
static COUNT: AtomicU64 = AtomicU64::new(0);
static NEWEST: AtomicU32 = AtomicU32::new(0);

/// The stretch of code that is expected to raise an exception; see [`Stretch`].
pub(crate) static EXPECTED: Stretch = Stretch {
    from: AtomicI64::new(0),
    to: AtomicI64::new(0),
    raised: AtomicU32::new(0),
    signal: AtomicU32::new(0),
    vector: AtomicI64::new(0),
    segments: AtomicI64::new(0),
};

/// Code whose exceptions are wanted: from the instruction at `from` up to and with the one at `to`,
/// where the code goes on. Empty while `to` is 0.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Stretch {
    pub(crate) from: AtomicI64,
    pub(crate) to: AtomicI64,
    /// Exceptions so far.
    pub(crate) raised: AtomicU32,
    /// Signal of the newest.
    pub(crate) signal: AtomicU32,
    /// Vector of the newest, as the kernel's signal frame gives it.
    pub(crate) vector: AtomicI64,
    /// CS in the lowest 16 bits and SS in the highest, to go on with; 0 leaves them as they are.
    pub(crate) segments: AtomicI64,
}

/// The signals that an exception can turn into, whichever it was meant to be.
const EXCEPTIONS: [i32; 5] = [
    libc::SIGSEGV,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGBUS,
    libc::SIGFPE,
];

/// RFLAGS.TF (SDM vol. 1, "EFLAGS Register").
pub(crate) const TRAP_FLAG: i64 = 1 << 8;
/// RFLAGS.AC.
pub(crate) const ALIGNMENT_CHECK: i64 = 1 << 18;

/// In `uc_flags`: SS is in the frame, and to be loaded as it is (arch/x86/include/uapi/asm/ucontext.h).
pub(crate) const SS_STRICT: libc::c_ulong = 2 | 4;

/// Handles them from now on in this process.
pub(crate) fn handle() -> Result<(), Errno> {
    for signal in EXCEPTIONS {
        install(signal, on_exception as Handler as usize, libc::SA_SIGINFO)?;
    }
    // A system call of another order must not fail with EINTR.
    install(
        KICK_SIGNAL as i32,
        on_kick as extern "C" fn(i32) as usize,
        libc::SA_RESTART,
    )
}

/// Kicks the calling task itself.
pub(crate) fn raise() {
    // SAFETY: touches no memory of ours.
    unsafe { libc::raise(KICK_SIGNAL as i32) };
}

/// The signals handled so far. No system call.
pub(crate) fn handled() -> Signals {
    Signals {
        count: COUNT.load(Ordering::Relaxed),
        newest: NEWEST.load(Ordering::Relaxed),
    }
}

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void);

fn install(signal: i32, handler: usize, flags: i32) -> Result<(), Errno> {
    // SAFETY: all zeroes is a valid `sigaction`: no flags, nothing masked.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = flags;
    // SAFETY: the handlers below have the signatures that their flags ask for, and do only what is
    // safe at any instruction.
    if unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) } != 0 {
        return Err(Errno::last());
    }
    Ok(())
}

fn count(signal: i32) {
    let signal = signal.unsigned_abs();
    NEWEST.store(signal, Ordering::Relaxed);
    let count = COUNT.load(Ordering::Relaxed).wrapping_add(1);
    COUNT.store(count, Ordering::Relaxed);
}

extern "C" fn on_kick(signal: i32) {
    count(signal);
}

extern "C" fn on_exception(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // The kernel leaves RFLAGS.AC as it was (`handle_signal` of arch/x86/kernel/signal.c), and nothing says that
    // the code below is aligned.
    // SAFETY: RFLAGS alone changes; the stack is as it was.
    unsafe {
        asm!("pushfq", "and qword ptr [rsp], {keep}", "popfq", keep = const !ALIGNMENT_CHECK as i32);
    }
    // SAFETY: the kernel passes both for a handler with SA_SIGINFO, and they are this handler's
    // until it returns (sigaction(2)).
    let (info, context) = unsafe { (&*info, &mut *context.cast::<libc::ucontext_t>()) };
    let registers = &mut context.uc_mcontext.gregs;
    let rip = registers[libc::REG_RIP as usize];
    let (from, to) = (
        EXPECTED.from.load(Ordering::Relaxed),
        EXPECTED.to.load(Ordering::Relaxed),
    );
    // A code above 0 is the kernel's: the task did it, nobody sent it (sigaction(2)).
    let sent = info.si_code <= 0;
    if to == 0 || sent || !(from..=to).contains(&rip) {
        die_of(signal, sent);
        return;
    }
    count(signal);
    let raised = EXPECTED.raised.load(Ordering::Relaxed).wrapping_add(1);
    EXPECTED.raised.store(raised, Ordering::Relaxed);
    EXPECTED
        .signal
        .store(signal.unsigned_abs(), Ordering::Relaxed);
    let vector = registers[libc::REG_TRAPNO as usize];
    EXPECTED.vector.store(vector, Ordering::Relaxed);
    registers[libc::REG_EFL as usize] &= !(TRAP_FLAG | ALIGNMENT_CHECK);
    let segments = EXPECTED.segments.load(Ordering::Relaxed);
    if segments != 0 {
        registers[libc::REG_CSGSFS as usize] = segments;
        // Which the kernel need not look at once more.
        context.uc_flags |= SS_STRICT;
    }
    // A fault leaves RIP at the instruction, a trap behind it (SDM vol. 3, "Exception
    // Classifications").
    if rip == from {
        registers[libc::REG_RIP as usize] = to;
    }
}

/// Makes the signal do what it would have done without a handler, once the handler returns.
fn die_of(signal: i32, sent: bool) {
    // Cannot fail for these signals; and if it did, there would be nobody to tell.
    let _ = install(signal, libc::SIG_DFL, 0);
    // A fault comes again by itself and keeps its address for the kernel's log. These do not.
    if sent || signal == libc::SIGTRAP {
        // SAFETY: touches no memory of ours.
        unsafe { libc::raise(signal) };
    }
}
