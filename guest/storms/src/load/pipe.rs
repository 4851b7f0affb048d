//! A reader who waits for an event on the isolated CPU while one comes there: the CPU that writes to the trace wakes the reader
//! by an irq_work of its own (`rb_wakeups` of kernel/trace/ring_buffer.c), which is an IPI to itself.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::knob::Knob;
use crate::children::Children;
use crate::interfaces::Interfaces;
use crate::request::StormError;
use crate::tracefs::Tracefs;
use ipirig_system::{During, Errno};

/// The event: work that is queued on the CPU has it switch to a worker.
const EVENT: &str = "events/sched/sched_switch/enable";
/// The kernel has [`EVENT`] with it.
const OPTION: &str = "CONFIG_EVENT_TRACING";
/// How long the reader has until it waits. One that finds the event there needs nobody to wake it.
const HOLD: Duration = Duration::from_millis(50);

pub(super) fn run(interfaces: &Interfaces<'_>, work: &Knob) -> Result<(), StormError> {
    let tracefs = Tracefs::with(interfaces, EVENT, OPTION)?;
    let mut isolated = (0..).filter(|cpu| !interfaces.housekeeping.contains(cpu));
    let pipe = format!("per_cpu/cpu{}/trace_pipe", isolated.next().unwrap_or(0));
    let pipe = tracefs.file(&pipe, OPTION)?;
    let mut reader = Children::default();
    reader
        .add(|| read(&pipe))
        .during(|| format!("read {}", pipe.display()))?;
    tracefs.write(EVENT, "1")?;
    thread::sleep(HOLD);
    work.turn(interfaces.root)?;
    reader
        .join()
        .during(|| format!("read {}", pipe.display()))?;
    tracefs.write(EVENT, "0")
}

/// Waits for an event.
fn read(pipe: &Path) -> Result<(), Errno> {
    File::open(pipe)?.read_exact(&mut [0])?;
    Ok(())
}
