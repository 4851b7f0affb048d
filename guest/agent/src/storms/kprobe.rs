//! A kprobe that is added, enabled, disabled and removed.

use ipirig_abi::TRACED_FUNCTION;

use super::tracefs::Tracefs;
use crate::ground::Ground;
use crate::request::{Asked, Progress, Stopped};

const EVENTS: &str = "kprobe_events";
const ENABLE: &str = "events/ipirig/quiet/enable";
/// The kernel has [`EVENTS`] with it.
const OPTION: &str = "CONFIG_KPROBE_EVENTS";

pub(super) fn prepare(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    Tracefs::with(ground, EVENTS, OPTION)?.set_buffers_up()?;
    run(ground, asked, progress)
}

pub(super) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    asked.size(0, 0)?;
    let tracefs = Tracefs::with(ground, EVENTS, OPTION)?;
    let probe = format!("p:ipirig/quiet {TRACED_FUNCTION}+{}", asked.target);
    asked.each(progress, || {
        tracefs.write(EVENTS, &probe)?;
        tracefs.write(ENABLE, "1")?;
        tracefs.write(ENABLE, "0")?;
        tracefs.write(EVENTS, "-:ipirig/quiet")
    })
}
