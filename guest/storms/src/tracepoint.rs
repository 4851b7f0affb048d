//! A trace event, enabled and disabled: a static key and a static call.

use super::tracefs::Tracefs;
use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};

const ENABLE: &str = "events/sched/sched_waking/enable";
/// The kernel has [`ENABLE`] with it.
const OPTION: &str = "CONFIG_EVENT_TRACING";

pub(crate) fn prepare(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    Tracefs::with(interfaces, ENABLE, OPTION)?.set_buffers_up()?;
    run(interfaces, request, progress)
}

pub(crate) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let tracefs = Tracefs::with(interfaces, ENABLE, OPTION)?;
    request.each(progress, || {
        tracefs.write(ENABLE, "1")?;
        tracefs.write(ENABLE, "0")
    })
}
