//! The sandbox of a vCPU's thread: the few system calls that it needs, and no other.
//!
//! What a guest can reach of this process it reaches on these threads: KVM's exits, the APICs, ports, the console. One that
//! finds a way to execute code here can then open no file, start no program and map no code. The rest of the process is
//! untouched: a filter (seccomp(2)) and `no_new_privs` are a thread's own.
//!
//! Files cannot be opened: that fails. Any other system call that is not allowed is not made either, and the process says
//! which one it was and ends at once, with the code of a fault of the rig: who got so far is not to go on, and a thread
//! that stood still would be a hang. Where the thread has SIGSYS blocked, as the C library does while it starts a thread or
//! a program, the kernel ends the process by that signal, and nothing is said.
//!
//! What this crate does not do: keep a thread from the memory of others, which it shares. It is a second wall behind the
//! first, no jail.

#![expect(
    unsafe_code,
    reason = "prctl and seccomp, which nothing wraps that takes the flag"
)]
#![warn(clippy::indexing_slicing)]

mod filter;
mod trap;

use std::io;
use std::ptr;
use std::sync::Arc;

use seccompiler::BpfProgram;
use thiserror::Error;

/// Why a thread cannot be confined.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// This host's kernel cannot: CONFIG_SECCOMP_FILTER is not set.
    #[error("the host's kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)")]
    Unsupported,
    /// The filter makes no program.
    #[error("the filter of system calls cannot be built")]
    Filter(#[from] seccompiler::BackendError),
    /// A system call failed.
    #[error("{call}: {error}")]
    Call {
        /// Which one.
        call: &'static str,
        /// Why.
        error: io::Error,
    },
}

/// What the threads of vCPUs may do.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// In the order in which they are installed; the strictest answer of them counts.
    programs: Arc<[BpfProgram; 2]>,
}

impl Sandbox {
    /// For threads of this process. `backtraces`: they may read files, as a panic does for `RUST_BACKTRACE`. Has the
    /// process handle SIGSYS, once.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub fn new(backtraces: bool) -> Result<Self, SandboxError> {
        if !available() {
            return Err(SandboxError::Unsupported);
        }
        trap::install().map_err(failed("sigaction"))?;
        Ok(Self {
            programs: Arc::new([filter::refusals(backtraces)?, filter::program(backtraces)?]),
        })
    }

    /// Confines the calling thread, which is that of vCPU `cpu`, until it ends.
    ///
    /// # Errors
    /// The system calls that do it fail.
    pub fn enter(&self, cpu: usize) -> Result<(), SandboxError> {
        trap::names(cpu);
        // SAFETY: takes numbers only, and is for the calling thread.
        let done = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
        if done != 0 {
            return Err(failed("PR_SET_NO_NEW_PRIVS")(io::Error::last_os_error()));
        }
        self.programs.iter().try_for_each(install)
    }
}

/// Adds a filter to the calling thread's.
fn install(filter: &BpfProgram) -> Result<(), SandboxError> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).unwrap_or(u16::MAX),
        filter: filter.as_ptr().cast_mut().cast(),
    };
    // Without the flag kernels before 5.16 have the thread do without speculation, which guests then pay for.
    // SAFETY: the kernel copies the program, which is live, of that length, and of the layout of sock_filter.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    if done != 0 {
        return Err(failed("seccomp")(io::Error::last_os_error()));
    }
    Ok(())
}

/// Whether this host's kernel has filters that trap.
#[must_use]
pub fn available() -> bool {
    let action: u32 = libc::SECCOMP_RET_TRAP;
    // SAFETY: the kernel reads the action, a live local.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            ptr::from_ref(&action),
        )
    };
    answer == 0
}

fn failed(call: &'static str) -> impl FnOnce(io::Error) -> SandboxError {
    move |error| SandboxError::Call { call, error }
}
