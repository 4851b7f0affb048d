//! The system calls that a program is started, waited for and killed with.
#![expect(unsafe_code, reason = "raw system calls")]

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use crate::errno::Errno;

fn check(result: i64) -> Result<i64, Errno> {
    if result < 0 {
        Err(Errno::last())
    } else {
        Ok(result)
    }
}

/// Lets the calling task run on `cpus` (below 64) alone, and what it starts likewise.
pub fn confine(cpus: &[usize]) -> Result<(), Errno> {
    let mut mask = 0_u64;
    for &cpu in cpus {
        let bit = u32::try_from(cpu)
            .ok()
            .and_then(|cpu| 1_u64.checked_shl(cpu));
        mask |= bit.ok_or(Errno(libc::EINVAL))?;
    }
    // SAFETY: the kernel reads as many bytes as it is told: those of `mask`.
    let result =
        unsafe { libc::sched_setaffinity(0, size_of_val(&mask), (&raw const mask).cast()) };
    check(result.into()).map(|_| ())
}

/// Makes the caller the first of a process group of its own.
pub fn lead_group() -> Result<(), Errno> {
    // SAFETY: touches no memory of ours.
    check(unsafe { libc::setpgid(0, 0) }.into()).map(|_| ())
}

/// Makes the process `pid`, a child of ours, the first of a process group of its own.
pub fn let_lead_group(pid: i32) {
    // It does the same itself; whoever comes second finds it done, or finds that it is gone.
    // SAFETY: touches no memory of ours.
    unsafe { libc::setpgid(pid, 0) };
}

/// Kills every process of the group of `pid`. None is left to kill if they have all ended.
pub fn kill_group(pid: i32) {
    // SAFETY: touches no memory of ours.
    unsafe { libc::kill(-pid, libc::SIGKILL) };
}

/// Has standard input read nothing, and standard output and standard error go to `output`.
pub fn redirect(output: &File) -> Result<(), Errno> {
    let nothing = File::open("/dev/null")?;
    for (from, to) in [
        (nothing.as_raw_fd(), libc::STDIN_FILENO),
        (output.as_raw_fd(), libc::STDOUT_FILENO),
        (output.as_raw_fd(), libc::STDERR_FILENO),
    ] {
        // SAFETY: both are plain numbers; the standard descriptors are nobody's object here.
        check(unsafe { libc::dup2(from, to) }.into())?;
    }
    Ok(())
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
    // SAFETY: touches no memory of ours.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    let fd = i32::try_from(fd).map_err(|_| Errno(libc::EBADF))?;
    // SAFETY: the kernel has just made it, and it is nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sleeps until `watched` is readable, a signal comes, or `timeout` has passed. Whoever asks must
/// look which it was.
pub fn sleep_for(watched: &OwnedFd, timeout: Duration) {
    let mut poll = libc::pollfd {
        fd: watched.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // One more, so that no turn is too short by a fraction.
    let milliseconds = i32::try_from(timeout.as_millis() + 1).unwrap_or(i32::MAX);
    // SAFETY: the kernel reads and writes one `pollfd`.
    unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
}

/// The wait status of the child `pid`, if it has ended.
pub fn ended(pid: i32) -> Result<Option<i32>, Errno> {
    let mut status = 0;
    // SAFETY: the kernel writes one `int`.
    let got = check(unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) }.into())?;
    Ok((got == i64::from(pid)).then_some(status))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{self, Fork};

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
    fn a_cpu_that_no_mask_has_a_bit_for_is_refused() {
        assert_eq!(confine(&[64]), Err(Errno(libc::EINVAL)));
    }
}
