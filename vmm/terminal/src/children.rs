//! Programs that are started: each is in a process group of its own and ends, with all that it has started, when this
//! process is asked to end, and on its own when this process is killed.
//!
//! What a program of a group starts is not ended by a SIGKILL of this process: where it is a script, as Debian's
//! `bochs` is, what runs in it stays.
#![expect(
    unsafe_code,
    reason = "what is done between fork and exec has no safe interface"
)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, kill_process_group, set_parent_process_death_signal};

use crate::request::requested;

static GROUPS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// The process group of a program that was started.
#[derive(Debug)]
pub struct Group(Pid);

/// Starts `command` in a process group of its own, which ends when this process is asked to end, as long as the
/// [`Group`] exists. If this process is killed the program gets SIGTERM, and so it does when the calling thread ends.
///
/// # Errors
/// It cannot be started.
pub fn spawn(command: &mut Command) -> io::Result<(Child, Group)> {
    command.process_group(0);
    ends_with_us(command, Signal::TERM);
    let child = command.spawn()?;
    let group = Group(Pid::from_child(&child));
    groups().push(group.0);
    if requested() {
        // The signal came before the group was known.
        end_all(false);
    }
    Ok((child, group))
}

impl Drop for Group {
    fn drop(&mut self) {
        groups().retain(|group| *group != self.0);
    }
}

fn groups() -> MutexGuard<'static, Vec<Pid>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends all groups: with SIGKILL if they are `overdue`.
pub(crate) fn end_all(overdue: bool) {
    let signal = if overdue { Signal::KILL } else { Signal::TERM };
    for group in groups().iter() {
        // It may have ended.
        let _ = kill_process_group(*group, signal);
    }
}

/// Has what `command` starts get `signal` when the thread that starts it is gone (prctl(2), `PR_SET_PDEATHSIG`).
pub fn ends_with_us(command: &mut Command, signal: Signal) {
    let ask = move || Ok(set_parent_process_death_signal(Some(signal))?);
    // SAFETY: the closure makes one system call and nothing else: no allocation, no lock.
    unsafe { command.pre_exec(ask) };
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
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
        let mut child = started(|command| ends_with_us(command, Signal::KILL));
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

    /// Whether a process is there. A zombie is not.
    fn lives(pid: &str) -> bool {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        state.is_ok_and(|state| {
            !state
                .rsplit(") ")
                .next()
                .unwrap_or_default()
                .starts_with('Z')
        })
    }

    #[test]
    fn a_group_ends_with_all_that_it_has_started_and_what_is_no_group_any_more_does_not() {
        let start = || {
            let mut command = Command::new("sh");
            let script = "trap '' TERM; sleep 1000 & echo $!; wait";
            command.args(["-c", script]).stdout(Stdio::piped());
            let (mut child, group) = spawn(&mut command).expect("sh is there");
            let mut line = String::new();
            let from = child.stdout.take().expect("a pipe");
            BufReader::new(from).read_line(&mut line).expect("a line");
            (child, group, line.trim().to_owned())
        };
        let (mut ours, _group, below) = start();
        let (mut other, group, _) = start();
        drop(group);
        // Neither listens to the first.
        end_all(false);
        assert!(ours.try_wait().expect("ours").is_none() && lives(&below));
        end_all(true);
        ours.wait().expect("ours");
        while lives(&below) {
            thread::yield_now();
        }
        assert!(other.try_wait().expect("ours").is_none());
        let _ = kill_process_group(Pid::from_child(&other), Signal::KILL);
        other.wait().expect("ours");
    }
}
