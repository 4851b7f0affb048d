//! Classic BPF programs, compiled and freed.

use std::os::unix::net::UnixDatagram;

use super::{Asked, Ground, Progress, Stopped, write};
use crate::errno::Errno;
use crate::failure::During;
use crate::sys;

const ENABLE: &str = "proc/sys/net/core/bpf_jit_enable";

pub(super) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    asked.size(0, 0)?;
    let socket = match UnixDatagram::unbound().map_err(Errno::from) {
        Err(Errno(libc::ENOSYS)) => return Err(Stopped::Lacking("no CONFIG_NET".to_owned())),
        Err(Errno(libc::EAFNOSUPPORT)) => {
            return Err(Stopped::Lacking("no CONFIG_UNIX".to_owned()));
        }
        result => result.during(|| "open a socket")?,
    };
    let enable = ground.root.join(ENABLE);
    if !enable.exists() {
        let missing = format!("no CONFIG_BPF_JIT: {} is missing", enable.display());
        return Err(Stopped::Lacking(missing));
    }
    write(&enable, "1")?;
    asked.each(progress, || {
        Ok(sys::attach_filter(&socket).during(|| "attach a BPF program")?)
    })
}
