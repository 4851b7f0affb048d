//! A kprobe that is added, enabled, disabled and removed.

use ipirig_abi::TRACED_FUNCTION;

use super::tracefs::Tracefs;
use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};

const EVENTS: &str = "kprobe_events";
const ENABLE: &str = "events/ipirig/quiet/enable";
/// The kernel has [`EVENTS`] with it.
const OPTION: &str = "CONFIG_KPROBE_EVENTS";

pub(crate) fn prepare(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    Tracefs::with(interfaces, EVENTS, OPTION)?.set_buffers_up()?;
    run(interfaces, request, progress)
}

pub(crate) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let tracefs = Tracefs::with(interfaces, EVENTS, OPTION)?;
    let probe = format!("p:ipirig/quiet {TRACED_FUNCTION}+{}", request.target);
    request.each(progress, || {
        tracefs.write(EVENTS, &probe)?;
        tracefs.write(ENABLE, "1")?;
        tracefs.write(ENABLE, "0")?;
        tracefs.write(EVENTS, "-:ipirig/quiet")
    })
}
