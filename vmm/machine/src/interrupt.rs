//! Ctrl-C: SIGINT and SIGTERM ask the run to end in an orderly way; a second one ends the process.
#![expect(
    unsafe_code,
    reason = "an async-signal-safe write from a signal handler, and a descriptor that lives for ever"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

static REQUESTED: AtomicBool = AtomicBool::new(false);
static WAKE: OnceLock<EventFd> = OnceLock::new();

extern "C" fn on_signal(_: libc::c_int) {
    REQUESTED.store(true, Ordering::SeqCst);
    if let Some(wake) = WAKE.get() {
        let one = 1_u64;
        // SAFETY: write(2) is async-signal-safe; the buffer is eight live bytes, as an eventfd
        // wants. A full counter means that the reader is awake anyway.
        unsafe { libc::write(wake.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

/// Starts to catch SIGINT and SIGTERM. To be called first thing in `main`; again is harmless.
/// Child processes get the default action back when they start another program.
///
/// # Errors
/// `eventfd`'s and `sigaction`'s.
pub fn install() -> io::Result<()> {
    if WAKE.get().is_some() {
        return Ok(());
    }
    let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
    if WAKE.set(wake).is_err() {
        return Ok(());
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: all zeroes is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as usize;
        // After the first signal the default action is back: a second one always works.
        action.sa_flags = libc::SA_RESETHAND;
        // SAFETY: the handler only stores an atomic and writes to a descriptor that lives as long
        // as the process; `action` is live.
        if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether SIGINT or SIGTERM came since [`install`].
#[must_use]
pub fn requested() -> bool {
    REQUESTED.load(Ordering::SeqCst)
}

/// The event that becomes readable on the signal, once installed.
pub(crate) fn event() -> Option<&'static EventFd> {
    WAKE.get()
}

/// A descriptor that becomes readable, and stays so, when SIGINT or SIGTERM comes, once [`install`] has
/// been called.
#[must_use]
pub fn descriptor() -> Option<BorrowedFd<'static>> {
    let event = WAKE.get()?;
    // SAFETY: the event is in a static that is never taken out, so its descriptor is never closed.
    Some(unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) })
}
