//! The function tracer on one function, turned on and off.

use std::fs;

use super::tracefs::{QUIET_FUNCTION, Tracefs};
use super::{Asked, Ground, Progress, Stopped};
use crate::failure::During;

const FILTER: &str = "set_ftrace_filter";
const TRACERS: &str = "available_tracers";
const TRACER: &str = "current_tracer";

pub(super) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    asked.size(0, 0)?;
    let tracefs = Tracefs::open(ground)?;
    tracefs.file(FILTER, "CONFIG_DYNAMIC_FTRACE")?;
    let tracers = tracefs.file(TRACERS, "CONFIG_TRACING")?;
    let known = fs::read_to_string(&tracers).during(|| format!("read {}", tracers.display()))?;
    if !known.split_whitespace().any(|name| name == "function") {
        return Err(Stopped::Lacking(format!(
            "no CONFIG_FUNCTION_TRACER: {} has no function",
            tracers.display()
        )));
    }
    // Without a filter, every function of the kernel would be patched, and run slower.
    tracefs.write(FILTER, QUIET_FUNCTION)?;
    asked.each(progress, || {
        tracefs.write(TRACER, "function")?;
        tracefs.write(TRACER, "nop")
    })
}
