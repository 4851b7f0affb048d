//! The signal that kicks, and the thread that it comes to.
//!
//! It is a standard one, not a real-time one: what is to be queued can be refused (`RLIMIT_SIGPENDING`), and a kick need
//! not come more than once.
#![expect(
    unsafe_code,
    reason = "signal handling, and the one byte of kvm_run that it may touch"
)]

use std::cell::Cell;
use std::io;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;
use std::thread::{self, Thread};
use std::time::Duration;

use vmm_sys_util::signal::{register_signal_handler, unblock_signal};

use crate::immediate_exit::{ImmediateExit, raise};
use crate::kicker::{KickedThread, Kicker};

thread_local! {
    /// `immediate_exit` of the vCPU that this thread runs. No destructor, so the handler may read it at any time.
    static IMMEDIATE_EXIT: Cell<*const AtomicU8> = const { Cell::new(ptr::null()) };
}

/// The signal that kicks, which nothing else here uses. Sent while it is pending already it is that one signal; sending it
/// does not fail for want of memory or of a limit (signal(7)).
pub const SIGNAL: i32 = libc::SIGUSR1;

/// The kernel's id of the calling thread.
#[must_use]
pub fn thread_id() -> i32 {
    // SAFETY: gettid has no preconditions and cannot fail.
    unsafe { libc::gettid() }
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let byte = IMMEDIATE_EXIT.get();
    if !byte.is_null() {
        // SAFETY: `Attached` set the pointer to a byte of a mapping that outlives it, on this very thread, and clears it
        // before the mapping can go. Other accesses to the byte on this thread are single instructions, as this one is.
        raise(unsafe { &*byte });
    }
}

/// Installs the signal's handler, once a process.
///
/// # Errors
/// `sigaction`'s.
pub fn install() -> io::Result<()> {
    static DONE: OnceLock<Result<(), i32>> = OnceLock::new();
    DONE.get_or_init(|| register_signal_handler(SIGNAL, on_kick).map_err(|e| e.errno()))
        .map_err(io::Error::from_raw_os_error)
}

/// A thread of this process, known once it has attached itself.
#[derive(Debug, Default)]
pub struct SignalledThread(OnceLock<Thread>);

impl KickedThread for SignalledThread {
    fn signal(&self, id: i32) {
        // SAFETY: tgkill touches no memory; the id is cleared before its thread ends, and the process id keeps a recycled
        // thread id of another process out.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), id, SIGNAL) };
    }

    fn unpark(&self) {
        if let Some(thread) = self.0.get() {
            thread.unpark();
        }
    }

    fn park(&self, longest: Option<Duration>) {
        match longest {
            None => thread::park(),
            Some(longest) => thread::park_timeout(longest),
        }
    }
}

/// Ties the calling thread, which will run the vCPU that has this flag, to `kicker`.
pub fn attach<'a>(kicker: &'a Kicker<SignalledThread>, exit: &ImmediateExit) -> Attached<'a> {
    IMMEDIATE_EXIT.set(exit.byte());
    // Who starts this process may have blocked it. Cannot fail for a signal that exists.
    let _ = unblock_signal(SIGNAL);
    // Set once: a machine's threads start once.
    let _ = kicker.host().0.set(thread::current());
    kicker.reachable(thread_id());
    Attached { kicker }
}

/// A thread that can be kicked; ends with the value. What [`ImmediateExit`] is of must outlive it, on the same thread.
#[derive(Debug)]
pub struct Attached<'a> {
    kicker: &'a Kicker<SignalledThread>,
}

impl Drop for Attached<'_> {
    fn drop(&mut self) {
        self.kicker.reachable(0);
        IMMEDIATE_EXIT.set(ptr::null());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

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
        let kicker = Arc::new(Kicker::<SignalledThread>::default());
        let kicked = Arc::clone(&kicker);
        let thread = thread::spawn(move || {
            block_signal(SIGNAL).unwrap();
            // SAFETY: the byte is a static one.
            let exit = unsafe { ImmediateExit::at(&raw const EXIT) };
            let _attached = attach(&kicked, &exit);
            while EXIT.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
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
