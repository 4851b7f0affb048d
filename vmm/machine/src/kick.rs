//! Kicks: making a vCPU's thread look at its APIC, whether the vCPU runs, is about to, or is parked.
//!
//! A running vCPU leaves `KVM_RUN` on a signal. The signal's handler runs on the vCPU's own thread
//! and sets `kvm_run.immediate_exit`, so a kick that lands just before `KVM_RUN` is not lost either
//! (KVM API 5: "immediate_exit is polled once when KVM_RUN starts"). A parked one waits in
//! `thread::park`, whose token has the same property.
//!
//! The signal is a standard one, not a real-time one: what is to be queued can be refused
//! (`RLIMIT_SIGPENDING`), and a kick need not come more than once.
#![expect(
    unsafe_code,
    reason = "signal handling, and the one byte of kvm_run that it may touch"
)]

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use std::thread::{self, Thread};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{register_signal_handler, unblock_signal};

use crate::sys;

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs. No destructor, so the handler may read
    /// it at any time.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// The signal that kicks, which nothing else here uses. Sent while it is pending already it is that
/// one signal; sending it does not fail for want of memory or of a limit (signal(7)).
pub(crate) const SIGNAL: i32 = libc::SIGUSR1;

/// The kernel's id of the calling thread.
pub(crate) fn thread_id() -> i32 {
    // SAFETY: gettid has no preconditions and cannot fail.
    unsafe { libc::gettid() }
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let byte = IMMEDIATE_EXIT.get();
    if !byte.is_null() {
        // SAFETY: `Attached` set the pointer to a byte of a mapping that outlives it, on this very
        // thread, and clears it before the mapping can go. Other accesses to the byte on this
        // thread are single instructions, as this one is.
        unsafe { (*byte).store(1, Ordering::SeqCst) };
    }
}

/// Installs the signal's handler, once a process.
///
/// # Errors
/// `sigaction`'s.
pub(crate) fn install() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| register_signal_handler(SIGNAL, on_kick).map_err(|e| e.errno()))
        .map_err(io::Error::from_raw_os_error)
}

/// What other threads hold of a vCPU's thread.
#[derive(Debug, Default)]
pub(crate) struct Kicker {
    thread: OnceLock<Thread>,
    id: AtomicI32,
    parked: AtomicBool,
}

impl Kicker {
    /// Makes the thread look at its APIC soon. Before the thread has attached there is nothing to
    /// do: it looks before it first runs.
    pub(crate) fn kick(&self) {
        if self.parked.load(Ordering::SeqCst) {
            if let Some(thread) = self.thread.get() {
                thread.unpark();
            }
            return;
        }
        let id = self.id.load(Ordering::SeqCst);
        if id != 0 {
            // SAFETY: tgkill touches no memory; `id` is cleared before its thread ends, and the
            // process id keeps a recycled thread id of another process out.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id, SIGNAL) };
        }
    }

    /// The kernel's id of the thread, while it is attached.
    pub(crate) fn thread(&self) -> Option<i32> {
        Some(self.id.load(Ordering::SeqCst)).filter(|&id| id != 0)
    }

    /// Parks the calling vCPU thread until a kick or `deadline` (nanoseconds of
    /// [`crate::clock::now`]), unless `busy` finds something to do once others can see that the
    /// thread parks.
    pub(crate) fn park(&self, deadline: Option<u64>, busy: impl FnOnce() -> bool) {
        self.parked.store(true, Ordering::SeqCst);
        if !busy() {
            match deadline {
                None => thread::park(),
                Some(at) => thread::park_timeout(std::time::Duration::from_nanos(
                    at.saturating_sub(crate::clock::now()),
                )),
            }
        }
        self.parked.store(false, Ordering::SeqCst);
    }

    /// Ties the calling thread, which will run `vcpu`, to this kicker.
    pub(crate) fn attach(&self, vcpu: &mut VcpuFd) -> Attached<'_> {
        IMMEDIATE_EXIT.set(sys::immediate_exit(vcpu));
        self.here();
        Attached { kicker: self }
    }

    /// Kicks are for the calling thread.
    fn here(&self) {
        // Who starts this process may have blocked it. Cannot fail for a signal that exists.
        let _ = unblock_signal(SIGNAL);
        // Set once: a machine's threads start once.
        let _ = self.thread.set(thread::current());
        self.id.store(thread_id(), Ordering::SeqCst);
    }
}

/// A thread that can be kicked; ends with the value. The `VcpuFd` must outlive it, on the same
/// thread.
#[derive(Debug)]
pub(crate) struct Attached<'a> {
    kicker: &'a Kicker,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.kicker.id.store(0, Ordering::SeqCst);
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vmm_sys_util::signal::block_signal;

    use super::*;

    static EXIT: AtomicU8 = AtomicU8::new(0);

    /// Sets how many signals may be queued for this user; what it was.
    fn queue(signals: libc::rlim_t) -> libc::rlim_t {
        let mut limit = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };
        // SAFETY: both calls get live locals of the right type.
        unsafe {
            assert_eq!(libc::getrlimit(libc::RLIMIT_SIGPENDING, &raw mut limit), 0);
            let before = limit.rlim_cur;
            limit.rlim_cur = signals;
            assert_eq!(
                libc::setrlimit(libc::RLIMIT_SIGPENDING, &raw const limit),
                0
            );
            before
        }
    }

    #[test]
    fn a_kick_arrives_where_no_signal_can_be_queued_and_where_it_was_blocked() {
        install().unwrap();
        let kicker = Arc::new(Kicker::default());
        let kicked = Arc::clone(&kicker);
        let thread = thread::spawn(move || {
            block_signal(SIGNAL).unwrap();
            IMMEDIATE_EXIT.set(&raw const EXIT);
            kicked.here();
            while EXIT.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            IMMEDIATE_EXIT.set(ptr::null());
        });
        while kicker.thread().is_none() {
            thread::yield_now();
        }
        let before = queue(0);
        kicker.kick();
        let _ = queue(before);
        thread.join().unwrap();
    }
}
