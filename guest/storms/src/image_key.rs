//! A static key of the kernel image, turned over by its sysctl: no module's text is patched.

use std::path::Path;

use super::{Interfaces, Progress, StormError, StormRequest};
use ipirig_system::{During, Errno, setting};

/// Turns `sched_schedstats` over, which the scheduler's statistics are behind.
const SWITCH: &str = "proc/sys/kernel/sched_schedstats";

pub(crate) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let switch = interfaces.root.join(SWITCH);
    if !switch.exists() {
        let what = format!("no CONFIG_SCHEDSTATS: /{SWITCH} is missing");
        return Err(StormError::Lacking(what));
    }
    request.each(progress, || {
        write(&switch, "1")?;
        write(&switch, "0")
    })
}

fn write(switch: &Path, value: &str) -> Result<(), StormError> {
    let done = setting::write(switch, value).map_err(Errno::from);
    Ok(done.during(|| format!("write {value} to {}", switch.display()))?)
}
