//! The function tracer on one function, turned on and off.

use ipirig_abi::TRACED_FUNCTION;

use super::tracefs::Tracefs;
use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};

const FILTER: &str = "set_ftrace_filter";
const TRACERS: &str = "available_tracers";
const TRACER: &str = "current_tracer";

pub(crate) fn prepare(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let tracefs = Tracefs::open(interfaces)?;
    let filter = tracefs.file(FILTER, "CONFIG_DYNAMIC_FTRACE")?;
    let tracers = tracefs.file(TRACERS, "CONFIG_TRACING")?;
    if !lists(&tracefs.read(TRACERS)?, "function") {
        return Err(StormError::Lacking(format!(
            "no CONFIG_FUNCTION_TRACER: {} has no function",
            tracers.display()
        )));
    }
    tracefs.set_buffers_up()?;
    // Without a filter, every function of the kernel would be patched, and run slower. A name is
    // compared with those of all functions, which takes a slow kernel long; a number is not.
    if request.target != 0 {
        tracefs.write(FILTER, &request.target.to_string())?;
    }
    if !lists(&tracefs.read(FILTER)?, TRACED_FUNCTION) {
        tracefs.replace(FILTER, TRACED_FUNCTION)?;
    }
    if !lists(&tracefs.read(FILTER)?, TRACED_FUNCTION) {
        let refused = format!("{} does not take {TRACED_FUNCTION}", filter.display());
        return Err(StormError::Lacking(refused));
    }
    run(interfaces, request, progress)
}

pub(crate) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    let tracefs = Tracefs::with(interfaces, TRACER, "CONFIG_TRACING")?;
    request.each(progress, || {
        tracefs.write(TRACER, "function")?;
        tracefs.write(TRACER, "nop")
    })
}

/// Whether `word` is one of those in `text`.
fn lists(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|name| name == word)
}
