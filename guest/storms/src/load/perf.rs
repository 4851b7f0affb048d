//! perf_event_open(2): a counter on every CPU, the isolated ones included, as `perf stat -a` opens
//! it. The kernel installs each on its CPU by a function call there.
#![expect(unsafe_code, reason = "raw system calls")]

use std::os::fd::{FromRawFd, OwnedFd};

use crate::request::StormError;
use ipirig_system::{During, Errno};

/// `struct perf_event_attr` of include/uapi/linux/perf_event.h in its first version, which every
/// kernel takes.
#[repr(C)]
struct Attributes {
    kind: u32,
    size: u32,
    config: u64,
    /// Sampling, flags, breakpoints: none.
    rest: [u64; 6],
}

/// `PERF_TYPE_SOFTWARE` and `PERF_COUNT_SW_CONTEXT_SWITCHES`: counters that need no hardware.
static CONTEXT_SWITCHES: Attributes = Attributes {
    kind: 1,
    size: size_of::<Attributes>() as u32,
    config: 3,
    rest: [0; 6],
};
const _: () = assert!(size_of::<Attributes>() == 64);

pub(crate) fn run() -> Result<(), StormError> {
    let mut counters = Vec::new();
    for cpu in 0..online() {
        match open(cpu) {
            Err(Errno(libc::ENOSYS)) => {
                return Err(StormError::Lacking("no CONFIG_PERF_EVENTS".to_owned()));
            }
            result => counters.push(result.during(|| format!("open a counter on CPU {cpu}"))?),
        }
    }
    Ok(())
}

fn online() -> i32 {
    // SAFETY: touches no memory of ours.
    let cpus = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    i32::try_from(cpus).unwrap_or(1)
}

/// Counts what all tasks do on `cpu`.
fn open(cpu: i32) -> Result<OwnedFd, Errno> {
    const ALL_TASKS: i32 = -1;
    const NO_GROUP: i32 = -1;
    // SAFETY: the kernel reads as many bytes as the attributes say that they have.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const CONTEXT_SWITCHES,
            ALL_TASKS,
            cpu,
            NO_GROUP,
            0,
        )
    };
    match i32::try_from(fd) {
        // SAFETY: the kernel has just made it, and it is nobody else's.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(Errno::last()),
    }
}
