//! A trace event, enabled and disabled: a static key and a static call.

use super::tracefs::Tracefs;
use super::{Asked, Ground, Progress, Stopped};

const ENABLE: &str = "events/sched/sched_waking/enable";

pub(super) fn prepare(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    open(ground)?.set_buffers_up()?;
    run(ground, asked, progress)
}

pub(super) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    asked.size(0, 0)?;
    let tracefs = open(ground)?;
    asked.each(progress, || {
        tracefs.write(ENABLE, "1")?;
        tracefs.write(ENABLE, "0")
    })
}

fn open(ground: &Ground<'_>) -> Result<Tracefs, Stopped> {
    let tracefs = Tracefs::open(ground)?;
    tracefs.file(ENABLE, "CONFIG_EVENT_TRACING")?;
    Ok(tracefs)
}
