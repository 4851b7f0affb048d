//! One POSIX timer a vCPU thread: it kicks the thread when its APIC timer is due.
#![expect(
    unsafe_code,
    reason = "timer_create and friends have no safe wrapper for SIGEV_THREAD_ID"
)]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use crate::clock;

/// A timer that sends the kick signal to the thread that made it.
#[derive(Debug)]
pub(crate) struct KickTimer {
    id: libc::timer_t,
    armed: Option<u64>,
}

impl KickTimer {
    /// A disarmed timer for the calling thread.
    ///
    /// # Errors
    /// `timer_create`'s.
    pub(crate) fn for_this_thread() -> io::Result<Self> {
        // SAFETY: `sigevent` is plain data for which all zeroes is valid.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = ipirig_kick::SIGNAL;
        event.sigev_notify_thread_id = ipirig_kick::thread_id();
        let mut id: libc::timer_t = ptr::null_mut();
        // SAFETY: both pointers are to live locals of the right type.
        if unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut id) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { id, armed: None })
    }

    /// Makes the timer fire at `deadline` (nanoseconds of [`clock::now`]), or never. Costs a
    /// system call only when the deadline is another than before.
    ///
    /// # Errors
    /// `timer_settime`'s.
    pub(crate) fn set(&mut self, deadline: Option<u64>) -> io::Result<()> {
        if self.armed == deadline {
            return Ok(());
        }
        // Zero would disarm: a deadline that has passed fires at once.
        let left = deadline.map_or(0, |at| at.saturating_sub(clock::now()).max(1));
        let value = libc::timespec {
            tv_sec: i64::try_from(left / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(left % 1_000_000_000).unwrap_or(0),
        };
        let once = libc::itimerspec {
            it_interval: libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value: value,
        };
        // SAFETY: `id` is a timer that this value owns; `once` is live; the old value is unwanted.
        if unsafe { libc::timer_settime(self.id, 0, &raw const once, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
        self.armed = deadline;
        Ok(())
    }
}

impl Drop for KickTimer {
    fn drop(&mut self) {
        // SAFETY: `id` came from timer_create and is deleted once.
        unsafe { libc::timer_delete(self.id) };
    }
}
