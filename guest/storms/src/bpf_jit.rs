//! Classic BPF programs, compiled and freed, each in executable memory of its own.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::interfaces::{Interfaces, write};
use crate::request::{Progress, StormError, StormRequest};
use ipirig_system::{During, Errno, Failure, sys};

const ENABLE: &str = "proc/sys/net/core/bpf_jit_enable";
const MEMORY: &str = "proc/meminfo";

/// KiB of executable memory that the kernel allocates for the first of its programs, and frees with
/// the last (BPF_PROG_PACK_SIZE of kernel/bpf/core.c on a machine with one NUMA node).
const PACK_KIB: u64 = 2048;

/// Between two looks whether it was freed: by RCU, and then by a work.
const LOOK: Duration = Duration::from_millis(20);
/// Looks before it is said that it is not.
const LOOKS: u32 = 1000;

pub(crate) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let enable = interfaces.root.join(ENABLE);
    if !enable.exists() {
        let missing = format!("no CONFIG_BPF_JIT: {} is missing", enable.display());
        return Err(StormError::Lacking(missing));
    }
    write(&enable, "1")?;
    let memory = interfaces.root.join(MEMORY);
    let limit = vmalloc_used(&memory)? + PACK_KIB / 2;
    request.each(progress, || {
        let socket = socket()?;
        sys::attach_filter(&socket).during(|| "attach a BPF program")?;
        drop(socket);
        for _ in 0..LOOKS {
            if vmalloc_used(&memory)? < limit {
                return Ok(());
            }
            thread::sleep(LOOK);
        }
        Err(Failure::new("the memory of a BPF program was not freed").into())
    })
}

fn socket() -> Result<UnixDatagram, StormError> {
    match UnixDatagram::unbound().map_err(Errno::from) {
        Err(Errno(libc::ENOSYS)) => Err(StormError::Lacking("no CONFIG_NET".to_owned())),
        Err(Errno(libc::EAFNOSUPPORT)) => Err(StormError::Lacking("no CONFIG_UNIX".to_owned())),
        result => Ok(result.during(|| "open a socket")?),
    }
}

/// KiB that vmalloc has given out and not got back.
fn vmalloc_used(memory: &Path) -> Result<u64, Failure> {
    let text = fs::read_to_string(memory).during(|| format!("read {}", memory.display()))?;
    let used = text
        .lines()
        .find_map(|line| line.strip_prefix("VmallocUsed:"));
    used.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .ok_or_else(|| Failure::new(format!("{} has no VmallocUsed", memory.display())))
}
