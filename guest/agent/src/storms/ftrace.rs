//! The function tracer on one function, turned on and off.

use ipirig_abi::TRACED_FUNCTION;

use super::tracefs::Tracefs;
use crate::ground::Ground;
use crate::request::{Asked, Progress, Stopped};

const FILTER: &str = "set_ftrace_filter";
const TRACERS: &str = "available_tracers";
const TRACER: &str = "current_tracer";

pub(super) fn prepare(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    let tracefs = Tracefs::open(ground)?;
    let filter = tracefs.file(FILTER, "CONFIG_DYNAMIC_FTRACE")?;
    let tracers = tracefs.file(TRACERS, "CONFIG_TRACING")?;
    if !lists(&tracefs.read(TRACERS)?, "function") {
        return Err(Stopped::Lacking(format!(
            "no CONFIG_FUNCTION_TRACER: {} has no function",
            tracers.display()
        )));
    }
    tracefs.set_buffers_up()?;
    // Without a filter, every function of the kernel would be patched, and run slower. A name is
    // compared with those of all functions, which takes a slow kernel long; a number is not.
    if asked.target != 0 {
        tracefs.write(FILTER, &asked.target.to_string())?;
    }
    if !lists(&tracefs.read(FILTER)?, TRACED_FUNCTION) {
        tracefs.replace(FILTER, TRACED_FUNCTION)?;
    }
    if !lists(&tracefs.read(FILTER)?, TRACED_FUNCTION) {
        let refused = format!("{} does not take {TRACED_FUNCTION}", filter.display());
        return Err(Stopped::Lacking(refused));
    }
    run(ground, asked, progress)
}

pub(super) fn run(
    ground: &Ground<'_>,
    asked: &Asked,
    progress: &mut Progress,
) -> Result<(), Stopped> {
    asked.size(0, 0)?;
    let tracefs = Tracefs::with(ground, TRACER, "CONFIG_TRACING")?;
    asked.each(progress, || {
        tracefs.write(TRACER, "function")?;
        tracefs.write(TRACER, "nop")
    })
}

/// Whether `word` is one of those in `text`.
fn lists(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|name| name == word)
}
