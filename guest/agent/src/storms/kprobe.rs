//! A kprobe that is added, enabled, disabled and removed.

use super::tracefs::{QUIET_FUNCTION, Tracefs};
use super::{Asked, Ground, Progress, Stopped};

const EVENTS: &str = "kprobe_events";
const ENABLE: &str = "events/ipirig/quiet/enable";

pub(super) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    asked.size(0, 0)?;
    let tracefs = Tracefs::open(ground)?;
    tracefs.file(EVENTS, "CONFIG_KPROBE_EVENTS")?;
    asked.each(progress, || {
        tracefs.write(EVENTS, &format!("p:ipirig/quiet {QUIET_FUNCTION}"))?;
        tracefs.write(ENABLE, "1")?;
        tracefs.write(ENABLE, "0")?;
        tracefs.write(EVENTS, "-:ipirig/quiet")
    })
}
