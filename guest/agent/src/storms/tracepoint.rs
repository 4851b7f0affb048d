//! A trace event, enabled and disabled: a static key and a static call.

use super::tracefs::Tracefs;
use crate::ground::Ground;
use crate::request::{Asked, Progress, Stopped};

const ENABLE: &str = "events/sched/sched_waking/enable";
/// The kernel has [`ENABLE`] with it.
const OPTION: &str = "CONFIG_EVENT_TRACING";

pub(super) fn prepare(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    Tracefs::with(ground, ENABLE, OPTION)?.set_buffers_up()?;
    run(ground, asked, progress)
}

pub(super) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    asked.size(0, 0)?;
    let tracefs = Tracefs::with(ground, ENABLE, OPTION)?;
    asked.each(progress, || {
        tracefs.write(ENABLE, "1")?;
        tracefs.write(ENABLE, "0")
    })
}
