//! The system calls that a program is started, waited for and killed with.
#![expect(
    unsafe_code,
    reason = "execve, dispositions and masks of signals, which rustix lacks"
)]

use std::ffi::CString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::ptr;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{self, PidfdFlags, Signal};
use rustix::stdio;

use crate::errno::Errno;
use crate::sys::child;

/// Makes the caller the first of a process group of its own.
pub fn lead_group() -> Result<(), Errno> {
    Ok(process::setpgid(None, None)?)
}

/// Makes the process `pid`, a child of ours, the first of a process group of its own.
pub fn let_lead_group(pid: i32) {
    // It does the same itself; whoever comes second finds it done, or finds that it is gone.
    if let Ok(pid) = child(pid) {
        let _ = process::setpgid(Some(pid), None);
    }
}

/// Kills every process of the group of `pid`. None is left to kill if they have all ended.
pub fn kill_group(pid: i32) {
    if let Ok(group) = child(pid) {
        let _ = process::kill_process_group(group, Signal::KILL);
    }
}

/// Asks every process of the group of `pid` to end, with SIGTERM. None is left to ask if they have all ended.
pub fn end_group(pid: i32) {
    if let Ok(group) = child(pid) {
        let _ = process::kill_process_group(group, Signal::TERM);
    }
}

/// From now on SIGTERM ends the caller, and what it forks, no longer: it has to look whether it was [`asked_to_end`].
pub fn end_when_asked() -> Result<(), Errno> {
    let set = sigterm();
    // SAFETY: `set` is live, and where the old mask would go nothing is asked for.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
    if error == 0 {
        Ok(())
    } else {
        Err(Errno(error))
    }
}

/// Sleeps for `time`, or until SIGTERM comes to who called [`end_when_asked`], or has come: whether it did. It is
/// not remembered.
pub fn asked_to_end(time: Duration) -> bool {
    let set = sigterm();
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: `set` and `time` are live; nothing is asked for of the signal but its number.
    unsafe { libc::sigtimedwait(&raw const set, ptr::null_mut(), &raw const time) == libc::SIGTERM }
}

/// The set with SIGTERM alone.
fn sigterm() -> libc::sigset_t {
    // SAFETY: all zeroes is a valid value, and the calls make a set of it.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        set
    }
}

/// Has standard input read nothing, and standard output and standard error go to `output`.
pub fn redirect(output: &File) -> Result<(), Errno> {
    let nothing = File::open("/dev/null")?;
    stdio::dup2_stdin(&nothing)?;
    stdio::dup2_stdout(output)?;
    Ok(stdio::dup2_stderr(output)?)
}

/// Gives SIGCHLD and the other signals back their usual meaning. execve(2) does so for those that
/// have a handler, but not for a child that goes on in this program.
pub fn forget_handlers() -> Result<(), Errno> {
    // SAFETY: SIG_DFL is a valid disposition.
    let before = unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    if before == libc::SIG_ERR {
        return Err(Errno::last());
    }
    Ok(())
}

/// execve(2). Returns only on failure.
pub fn execute(program: &CString, arguments: &[CString], environment: &[CString]) -> Errno {
    let pointers = |strings: &[CString]| {
        let each = strings.iter().map(|string| string.as_ptr());
        each.chain([ptr::null()]).collect::<Vec<_>>()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: the strings end in NUL, both lists in a null pointer, and all outlive the call.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    Errno::last()
}

/// A descriptor that becomes readable when the process `pid` ends: pidfd_open(2), since 5.3.
pub fn watch(pid: i32) -> Result<OwnedFd, Errno> {
    Ok(process::pidfd_open(child(pid)?, PidfdFlags::empty())?)
}

/// Sleeps until `watched` is readable, a signal comes, or `timeout` has passed. Whoever asks must
/// look which it was.
pub fn sleep_for(watched: &OwnedFd, timeout: Duration) {
    let timeout = Timespec::try_from(timeout).ok();
    let _ = poll(&mut [PollFd::new(watched, PollFlags::IN)], timeout.as_ref());
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::sys::{self, Fork, confine, ended};

    #[test]
    fn a_child_is_waited_for_and_its_group_can_be_killed() {
        let Fork::Parent(pid) = sys::fork().unwrap() else {
            sys::sleep_forever()
        };
        let_lead_group(pid);
        let watched = watch(pid).unwrap();
        assert_eq!(ended(pid), Ok(None));
        sleep_for(&watched, Duration::from_millis(1));
        assert_eq!(ended(pid), Ok(None));
        kill_group(pid);
        sleep_for(&watched, Duration::from_secs(60));
        assert_eq!(ended(pid), Ok(Some(libc::SIGKILL)));
        assert_eq!(ended(pid), Err(Errno(libc::ECHILD)));
    }

    #[test]
    fn who_holds_a_request_to_end_hears_of_it_and_goes_on() {
        let (mut ready, mut say) = std::io::pipe().unwrap();
        let Fork::Parent(pid) = sys::fork().unwrap() else {
            let heard = lead_group()
                .and_then(|()| end_when_asked())
                .map(|()| say.write_all(b"!").is_ok() && asked_to_end(Duration::from_secs(60)));
            sys::exit(if heard == Ok(true) { 7 } else { 8 })
        };
        let_lead_group(pid);
        // Until it holds the signal, that would end it.
        ready.read_exact(&mut [0]).unwrap();
        let watched = watch(pid).unwrap();
        end_group(pid);
        sleep_for(&watched, Duration::from_secs(60));
        assert_eq!(ended(pid), Ok(Some(7 << 8)));
        // Who was not asked hears of nothing.
        end_when_asked().unwrap();
        assert!(!asked_to_end(Duration::ZERO));
    }

    #[test]
    fn a_cpu_that_no_mask_has_a_bit_for_is_refused() {
        assert_eq!(confine(&[64]), Err(Errno(libc::EINVAL)));
    }
}
