//! SIGINT, SIGTERM and SIGHUP ask for the end: of the process within a second, whatever it does.
//!
//! There is one way. The handler sets a flag and wakes who waits on [`event`] or [`descriptor`]; what looks at the flag
//! ends in an orderly way and says what it was at. A thread of its own ends the programs that were started
//! ([`crate::children`]). If the process is still there after [`GRACE`] (it opens a FIFO, reads from a dead mount,
//! writes to a pipe that nobody reads) that thread removes what was begun ([`crate::tidy`]) and exits. Who has something
//! to say after the signal, such as the report of an observation, asks for more time ([`orderly`]). A second signal
//! ends the process at once.
#![expect(
    unsafe_code,
    reason = "signal handlers, and a descriptor that lives for ever"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::request::request;
pub use crate::request::requested;
use crate::{children, tidy};

/// With what a process ends that was asked to: 128 + SIGINT, as a shell says it.
pub const EXIT_CODE: i32 = 130;

/// How long what looks at the flag has to end the process in its own way.
pub const GRACE: Duration = Duration::from_millis(800);

/// How often the thread that ends the process looks whether it may.
const LOOK: Duration = Duration::from_millis(50);

static WAKE: OnceLock<EventFd> = OnceLock::new();
/// Wakes the thread that ends the process. Nobody else reads it.
static ALARM: OnceLock<EventFd> = OnceLock::new();
/// Those who asked for more time, by number, and until when after the signal.
static ORDERLY: Mutex<Vec<(u64, Duration)>> = Mutex::new(Vec::new());

extern "C" fn on_signal(_: libc::c_int) {
    request();
    for event in [&WAKE, &ALARM].into_iter().filter_map(OnceLock::get) {
        let one = 1_u64;
        // SAFETY: write(2) is async-signal-safe; the buffer is eight live bytes, as an eventfd
        // wants. A full counter means that the reader is awake anyway.
        unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), 8) };
    }
}

/// Only so that the signal is not fatal: write(2) then fails with EFBIG, which is told like a full disk.
extern "C" fn on_too_large(_: libc::c_int) {}

/// Starts to catch the signals. To be called first thing in `main`; again is harmless. SIGHUP stays ignored where it
/// was, as nohup(1) has it. Child processes get the default action back when they start another program.
///
/// # Errors
/// `eventfd`'s, `sigaction`'s, a thread's.
pub fn install() -> io::Result<()> {
    if WAKE.get().is_some() {
        return Ok(());
    }
    let wake = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?;
    let alarm = EventFd::new(EFD_CLOEXEC)?;
    if WAKE.set(wake).is_err() || ALARM.set(alarm).is_err() {
        return Ok(());
    }
    thread::Builder::new()
        .name("interrupt".to_owned())
        .spawn(end_when_asked)?;
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        if signal == libc::SIGHUP && is_ignored(signal)? {
            continue;
        }
        // After the first signal the default action is back: a second one always works.
        handle(signal, on_signal, libc::SA_RESETHAND)?;
    }
    handle(libc::SIGXFSZ, on_too_large, libc::SA_RESTART)
}

fn handle(signal: i32, by: extern "C" fn(libc::c_int), flags: i32) -> io::Result<()> {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = by as usize;
    action.sa_flags = flags;
    // SAFETY: the handlers only store an atomic and write to descriptors that live as long as the
    // process; `action` is live.
    if unsafe { libc::sigaction(signal, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn is_ignored(signal: i32) -> io::Result<bool> {
    // SAFETY: all zeroes is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: a null action is not set; `action` is live.
    if unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(action.sa_sigaction == libc::SIG_IGN)
}

/// The event that becomes readable on the signal, once installed.
pub fn event() -> Option<&'static EventFd> {
    WAKE.get()
}

/// A descriptor that becomes readable when one of the signals comes, once [`install`] has been called.
#[must_use]
pub fn descriptor() -> Option<BorrowedFd<'static>> {
    let event = WAKE.get()?;
    // SAFETY: the event is in a static that is never taken out, so its descriptor is never closed.
    Some(unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) })
}

/// More time after the signal, as long as this exists.
#[derive(Debug)]
pub struct Orderly(u64);

/// Asks for `time` after the signal instead of [`GRACE`], for who ends in an orderly way by itself.
#[must_use]
pub fn orderly(time: Duration) -> Orderly {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    asked().push((number, time));
    Orderly(number)
}

impl Drop for Orderly {
    fn drop(&mut self) {
        asked().retain(|(number, _)| *number != self.0);
    }
}

fn asked() -> MutexGuard<'static, Vec<(u64, Duration)>> {
    ORDERLY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that sees to it that the process ends.
fn end_when_asked() {
    let Some(alarm) = ALARM.get() else { return };
    while alarm.read().is_err() || !requested() {}
    let since = Instant::now();
    // Whoever asked for more time has the usual time after that.
    let mut from = since;
    while from.elapsed() < GRACE {
        children::end_all(since.elapsed() > GRACE / 2);
        let most = asked().iter().map(|(_, time)| *time).max();
        if most.is_some_and(|most| since.elapsed() < most) {
            from = Instant::now();
        }
        thread::sleep(LOOK);
    }
    tidy::all();
    let words = b"ipirig: interrupted\n";
    // Not by `io::stderr`: whoever holds its lock may be who does not end.
    // SAFETY: the buffer is live, and as long as is said.
    unsafe { libc::write(libc::STDERR_FILENO, words.as_ptr().cast(), words.len()) };
    // SAFETY: _exit(2) runs nothing of this process any more.
    unsafe { libc::_exit(EXIT_CODE) }
}
