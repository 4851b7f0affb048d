//! The kernel's own histogram of how long a function waits to begin on another CPU: a synthetic event
//! joins the queueing with the beginning, and its times are counted by powers of two
//! (Documentation/trace/histogram.rst).

use std::fs;

use super::{INSTANCE, part};
use ipirig_storms::StormError;
use ipirig_storms::Tracefs;
use ipirig_system::During;

const EVENTS: &str = "synthetic_events";
const SYNTHETIC: &str = "csd_latency unsigned int dst_cpu; unsigned long csd; u64 time";
const QUEUE: &str = "events/csd/csd_queue_cpu/trigger";
const BEGIN: &str = "events/csd/csd_function_entry/trigger";
const COUNTS: &str = "events/synthetic/csd_latency/trigger";
const HISTOGRAM: &str = "events/synthetic/csd_latency/hist";
/// Counts by powers of two of ticks.
const COUNT: &str = "hist:keys=time.log2:size=128";

/// A kernel's histogram.
#[derive(Debug)]
pub(super) struct Latency<'a>(&'a Tracefs);

impl<'a> Latency<'a> {
    /// Sets it up in an instance, for the CPUs of a list; `None` if the kernel has no histograms. Each
    /// has a clock, and choosing one for it chooses it for the instance, so it must be the instance's.
    pub(super) fn new(
        tracefs: &Tracefs,
        instance: &'a Tracefs,
        cpus: &str,
    ) -> Result<Option<Self>, StormError> {
        let known = |dir: &Tracefs, file| dir.file(file, "CONFIG_HIST_TRIGGERS").is_ok();
        if !known(tracefs, EVENTS) || !known(instance, "events/csd/csd_queue_cpu/hist") {
            return Ok(None);
        }
        tracefs.write(EVENTS, SYNTHETIC)?;
        let queue = format!(
            "hist:keys=cpu,csd.hex:ts=common_timestamp:clock=x86-tsc:size=512 \
             if cpu & CPUS{{{cpus}}}"
        );
        instance.write(QUEUE, &queue)?;
        let begin = format!(
            "hist:keys=common_cpu,csd.hex:time=common_timestamp-$ts\
             :onmatch(csd.csd_queue_cpu).trace(csd_latency,common_cpu,csd,$time)\
             :clock=x86-tsc:size=512 if common_cpu & CPUS{{{cpus}}}"
        );
        instance.write(BEGIN, &begin)?;
        instance.write(COUNTS, COUNT)?;
        Ok(Some(Self(instance)))
    }

    /// Forgets what was counted while tracing was being switched on: that counted itself.
    pub(super) fn clear(&self) -> Result<(), StormError> {
        self.0.write(COUNTS, &format!("{COUNT}:clear"))
    }
}

/// Counts no more.
pub(super) fn pause(instance: &Tracefs) -> Result<(), StormError> {
    if instance.file(COUNTS, "CONFIG_HIST_TRIGGERS").is_err() {
        return Ok(());
    }
    instance.write(COUNTS, &format!("{COUNT}:pause"))
}

/// What has been counted; empty if nothing was to be.
pub(super) fn read(tracefs: &Tracefs) -> Result<Vec<u8>, StormError> {
    let instance = tracefs.instance(INSTANCE)?;
    let Ok(path) = instance.file(HISTOGRAM, "CONFIG_HIST_TRIGGERS") else {
        return Ok(Vec::new());
    };
    let file = fs::File::open(&path).during(|| format!("open {}", path.display()))?;
    Ok(part(&file)?)
}
