//! A reader of a trace while each CPU writes to it: the writer wakes the reader by an irq_work of its own
//! (`rb_wakeups` of kernel/trace/ring_buffer.c), which is an IPI to itself.

use std::fs::File;
use std::io::Read;

use crate::children::Children;
use crate::interfaces::Interfaces;
use crate::request::StormError;
use crate::tracefs::Tracefs;
use ipirig_system::{During, Errno};

/// The events: what an isolated CPU has to do at all is to take calls.
const EVENTS: &str = "events/irq_vectors/enable";
/// The kernel has [`EVENTS`] with it.
const OPTION: &str = "CONFIG_EVENT_TRACING";
/// What is read. A reader waits for the first event and for no more.
const PIPE: &str = "trace_pipe";
/// Of one read.
const BYTES: usize = 4096;

pub(crate) fn run(interfaces: &Interfaces<'_>) -> Result<(), StormError> {
    let tracefs = Tracefs::with(interfaces, EVENTS, OPTION)?;
    let pipe = tracefs.file(PIPE, OPTION)?;
    let mut reader = Children::default();
    reader
        .add(|| read(&pipe))
        .during(|| format!("read {}", pipe.display()))?;
    tracefs.write(EVENTS, "1")?;
    reader
        .join()
        .during(|| format!("read {}", pipe.display()))?;
    tracefs.write(EVENTS, "0")
}

fn read(pipe: &std::path::Path) -> Result<(), Errno> {
    File::open(pipe)?.read_exact(&mut [0; BYTES])?;
    Ok(())
}
