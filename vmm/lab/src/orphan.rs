//! An emulator that ends with the process that has started it, whatever ends that: two signals at once, SIGKILL.
//!
//! Not what the emulator starts itself: where it is a script, as Debian's `bochs` is, what runs in it stays.
#![expect(
    unsafe_code,
    reason = "what is done between fork and exec has no safe interface"
)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, set_parent_process_death_signal};

/// Has what `command` starts be killed when the thread that starts it is gone (prctl(2), `PR_SET_PDEATHSIG`).
pub(crate) fn ends_with_us(command: &mut Command) {
    let ask = || Ok(set_parent_process_death_signal(Some(Signal::KILL))?);
    // SAFETY: the closure makes one system call and nothing else: no allocation, no lock.
    unsafe { command.pre_exec(ask) };
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Stdio};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    /// What is left of a thread that has started `sleep`.
    fn started(with: fn(&mut Command)) -> Child {
        let start = move || {
            let mut command = Command::new("sleep");
            command.arg("1000").stdout(Stdio::null());
            with(&mut command);
            command.spawn().expect("sleep is there")
        };
        thread::spawn(start).join().expect("started")
    }

    #[test]
    fn what_was_started_ends_with_who_started_it_and_other_children_do_not() {
        let mut child = started(ends_with_us);
        let deadline = Instant::now() + Duration::from_secs(60);
        while child.try_wait().expect("ours").is_none() {
            assert!(Instant::now() < deadline, "it lives on");
            thread::sleep(Duration::from_millis(5));
        }
        let mut other = started(|_| ());
        thread::sleep(Duration::from_millis(50));
        assert!(other.try_wait().expect("ours").is_none());
        other.kill().expect("ended");
        other.wait().expect("ours");
    }
}
