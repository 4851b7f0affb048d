//! Address spaces that an isolated CPU uses besides its task's: processes that sleep in the module
//! until a relay takes the CPU through them.

use ipirig_abi::MAX_CPUS;

use crate::device::Device;
use ipirig_system::{
    During, Errno, Failure,
    sys::{self, Fork},
};

/// Most processes for one CPU.
const MAX: u64 = 64;

/// Starts `count` processes that take part in the relays of `cpu`, for good, and waits until all of
/// them sleep there. How many take part then, those of earlier calls included, comes back.
pub(crate) fn start(device: &Device, cpu: u64, count: u64) -> Result<u64, Failure> {
    let what = || format!("start {count} processes on isolated CPU {cpu}");
    if cpu >= MAX_CPUS as u64 || count > MAX {
        return Err(Errno(libc::EINVAL)).during(what);
    }
    let before = device.members(cpu as u32).during(what)?;
    let mut pids = Vec::new();
    for _ in 0..count {
        match sys::fork().during(what)? {
            Fork::Child => take_part(device, cpu as usize),
            Fork::Parent(pid) => pids.push(pid),
        }
    }
    let wanted = u64::from(before) + count;
    loop {
        let members = device.members(cpu as u32).during(what)?.into();
        if members >= wanted {
            return Ok(members);
        }
        for &pid in &pids {
            if let Some(status) = sys::ended(pid).during(what)? {
                return Err(Errno(libc::WEXITSTATUS(status))).during(what);
            }
        }
    }
}

/// What such a process does from its birth on. Its exit code says why it did not work.
fn take_part(device: &Device, cpu: usize) -> ! {
    let ended = sys::pin(cpu).and_then(|()| device.join());
    sys::exit(ended.err().map_or(0, |errno| errno.0))
}
