//! Host cores: which may be used, and pinning threads to one each.
#![expect(
    unsafe_code,
    reason = "sched_setaffinity has no wrapper among our dependencies"
)]

use std::io;
use std::mem;

/// The cores that this process may use, ascending.
pub(crate) fn usable_cores() -> io::Result<Vec<usize>> {
    // SAFETY: a cpu_set_t is plain bits; all zeroes is the empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is live and of the size given.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let in_set = |core: &usize| {
        // SAFETY: `core` is below CPU_SETSIZE, so the bit is within the set.
        unsafe { libc::CPU_ISSET(*core, &set) }
    };
    Ok((0..libc::CPU_SETSIZE as usize).filter(in_set).collect())
}

/// Pins thread `id`, 0 for the calling one, to `core`.
pub(crate) fn pin(id: i32, core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: as above.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `core` is below CPU_SETSIZE, so the bit is within the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: `set` is live and of the size given.
    if unsafe { libc::sched_setaffinity(id, size_of::<libc::cpu_set_t>(), &raw const set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_use_that_core_only() {
        let core = usable_cores().unwrap()[0];
        let cores = std::thread::spawn(move || {
            pin(0, core).unwrap();
            usable_cores().unwrap()
        });
        assert_eq!(cores.join().unwrap(), [core]);
        assert!(pin(0, usize::MAX).is_err());
    }
}
