//! membarrier(2): a memory barrier on CPUs that run certain processes, by IPI.
#![expect(unsafe_code, reason = "raw system calls")]

use crate::request::StormError;
use ipirig_system::{During, Errno};

/// `enum membarrier_cmd` of include/uapi/linux/membarrier.h, in words.
const COMMANDS: [(i32, &str); 4] = [
    (1 << 2, "register for global expedited barriers"),
    (1 << 1, "make a global expedited barrier"),
    (1 << 4, "register for private expedited barriers"),
    (1 << 3, "make a private expedited barrier"),
];

pub(crate) fn run() -> Result<(), StormError> {
    for (command, what) in COMMANDS {
        match call(command) {
            Err(Errno(libc::ENOSYS)) => {
                return Err(StormError::Lacking("no CONFIG_MEMBARRIER".to_owned()));
            }
            result => result.during(|| what)?,
        }
    }
    Ok(())
}

fn call(command: i32) -> Result<(), Errno> {
    // SAFETY: touches no memory of ours.
    if unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } < 0 {
        return Err(Errno::last());
    }
    Ok(())
}
