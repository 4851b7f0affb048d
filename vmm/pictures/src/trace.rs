//! A run as a Chrome trace: JSON that Perfetto (ui.perfetto.dev), chrome://tracing and speedscope open
//! (the "Trace Event Format", with the flow arrows of its section on flow events).
//!
//! A run is a process, its phases and each of its vCPUs are threads. An IPI is a slice where it was
//! sent, a slice where it was taken, and an arrow between them, which viewers bind to the slices
//! that enclose its ends. Those two and what the kernel changed are moments; a moment is drawn
//! a microsecond long, or as long as there is room until the next.

use std::io::{self, Write};

use ipirig_evidence::blame::{Attribution, Frame};
use ipirig_evidence::ledger::Delivery;
use ipirig_evidence::ledger::changes::Sighted;
use ipirig_evidence::timeline::Span;
use ipirig_verdict::result::RunResult;
use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::cause::{call, cause_of};

/// How long a moment is drawn, in nanoseconds.
const MOMENT_NS: u64 = 1000;
/// Process numbers are this far apart: a run's threads are numbered from its own.
const NUMBERS: u64 = 1000;

/// Writes `runs` as one trace. Nothing of it is kept in memory but one run's IPIs.
///
/// # Errors
///
/// Those of `out`.
pub fn chrome_trace(runs: &[RunResult], out: impl Write) -> io::Result<()> {
    let mut json = serde_json::Serializer::new(out);
    let mut map = json.serialize_map(None)?;
    // Viewers show milliseconds or nanoseconds.
    map.serialize_entry("displayTimeUnit", "ns")?;
    map.serialize_entry(
        "otherData",
        &json!({ "tool": concat!("ipirig ", env!("CARGO_PKG_VERSION")) }),
    )?;
    map.serialize_entry("traceEvents", &Events(runs))?;
    SerializeMap::end(map)?;
    let mut out = json.into_inner();
    out.write_all(b"\n")?;
    out.flush()
}

/// The events of all runs.
struct Events<'a>(&'a [RunResult]);

impl Serialize for Events<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let begins = self.0.iter().filter_map(|run| run.timeline.extent());
        let origin_ns = begins.map(|(from, _)| from).min().unwrap_or(0);
        let mut out = Out {
            seq: serializer.serialize_seq(None)?,
            origin_ns,
            arrows: 0,
        };
        for (pid, run) in (1..).map(|number| number * NUMBERS).zip(self.0) {
            Process { run, pid }.write(&mut out)?;
        }
        out.seq.end()
    }
}

struct Out<S> {
    seq: S,
    /// What is 0 in the trace.
    origin_ns: u64,
    /// Arrows so far: each has its own number.
    arrows: u64,
}

/// One event, by the names of the format.
#[derive(Debug, Serialize)]
struct Event<'a> {
    name: &'a str,
    cat: &'static str,
    ph: &'static str,
    /// Microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    ts: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    pid: u64,
    tid: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'static str>,
    #[serde(skip_serializing_if = "Value::is_null")]
    args: Value,
}

/// Something on a vCPU that takes no time.
struct Moment {
    time_ns: u64,
    cpu: usize,
    cat: &'static str,
    name: String,
    args: Value,
}

/// One end of an arrow.
#[derive(Clone, Copy)]
enum End {
    Start,
    Finish,
}

impl<S: SerializeSeq> Out<S> {
    /// A time of the machine's clock, in microseconds of the trace. Exact to the nanosecond for
    /// three months.
    fn ts(&self, time_ns: u64) -> f64 {
        micros(time_ns.saturating_sub(self.origin_ns))
    }

    fn slice(
        &mut self,
        (pid, tid): (u64, u64),
        span: Span<(&'static str, &str)>,
        args: Value,
    ) -> Result<(), S::Error> {
        let (cat, name) = span.what;
        let event = Event {
            name,
            cat,
            ph: "X",
            ts: Some(self.ts(span.from_ns)),
            dur: Some(micros(span.to_ns - span.from_ns)),
            pid,
            tid,
            id: None,
            bp: None,
            args,
        };
        self.seq.serialize_element(&event)
    }

    fn arrow(
        &mut self,
        (pid, tid): (u64, u64),
        time_ns: u64,
        end: End,
        name: &str,
    ) -> Result<(), S::Error> {
        let event = Event {
            name,
            cat: "ipi",
            ph: match end {
                End::Start => "s",
                End::Finish => "f",
            },
            ts: Some(self.ts(time_ns)),
            dur: None,
            pid,
            tid,
            id: Some(self.arrows),
            // Ends at the slice that encloses it, not at the next one.
            bp: matches!(end, End::Finish).then_some("e"),
            args: Value::Null,
        };
        self.seq.serialize_element(&event)
    }

    fn metadata(
        &mut self,
        (pid, tid): (u64, u64),
        name: &'static str,
        args: Value,
    ) -> Result<(), S::Error> {
        self.seq.serialize_element(&Event {
            name,
            cat: "__metadata",
            ph: "M",
            ts: None,
            dur: None,
            pid,
            tid,
            id: None,
            bp: None,
            args,
        })
    }
}

fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// A run, as a process of the trace.
struct Process<'a> {
    run: &'a RunResult,
    pid: u64,
}

impl Process<'_> {
    fn write<S: SerializeSeq>(&self, out: &mut Out<S>) -> Result<(), S::Error> {
        self.names(out)?;
        self.phases(out)?;
        self.doings(out)?;
        let moments = self.moments();
        for vcpu in &self.run.vcpus {
            self.on_vcpu(out, vcpu.id, &moments)?;
        }
        self.arrows(out)
    }

    /// The thread of the phases; viewers have a process's namesake first.
    fn main(&self) -> (u64, u64) {
        (self.pid, self.pid)
    }

    fn vcpu(&self, cpu: usize) -> (u64, u64) {
        (self.pid, self.pid + 1 + cpu as u64)
    }

    fn names<S: SerializeSeq>(&self, out: &mut Out<S>) -> Result<(), S::Error> {
        let run = self.run;
        let main = self.main();
        let deferral = if run.scenario.deferral { "on" } else { "off" };
        let name = format!("{}, deferral {deferral}", run.scenario.name);
        out.metadata(main, "process_name", json!({ "name": name }))?;
        let labels = run.verdict.to_string();
        out.metadata(main, "process_labels", json!({ "labels": labels }))?;
        out.metadata(
            main,
            "process_sort_index",
            json!({ "sort_index": self.pid }),
        )?;
        out.metadata(main, "thread_name", json!({ "name": "phases" }))?;
        out.metadata(main, "thread_sort_index", json!({ "sort_index": 0 }))?;
        for vcpu in &run.vcpus {
            let thread = self.vcpu(vcpu.id);
            let name = format!("vCPU {} {}", vcpu.id, vcpu.role);
            out.metadata(thread, "thread_name", json!({ "name": name }))?;
            let index = json!({ "sort_index": vcpu.id + 1 });
            out.metadata(thread, "thread_sort_index", index)?;
        }
        Ok(())
    }

    /// The phases, and in them the windows.
    fn phases<S: SerializeSeq>(&self, out: &mut Out<S>) -> Result<(), S::Error> {
        let timeline = &self.run.timeline;
        for phase in &timeline.phases {
            let name = phase.what.to_string();
            out.slice(self.main(), phase.with(("phase", &name)), Value::Null)?;
        }
        for window in &timeline.windows {
            let args = json!({ "ended by": window.what });
            out.slice(self.main(), window.with(("window", "window")), args)?;
        }
        Ok(())
    }

    /// What the rig had each vCPU do: the stretches that moments lie in.
    fn doings<S: SerializeSeq>(&self, out: &mut Out<S>) -> Result<(), S::Error> {
        let (run, timeline) = (self.run, &self.run.timeline);
        for vcpu in &run.vcpus {
            let thread = self.vcpu(vcpu.id);
            if vcpu.role == "isolated" {
                for window in &timeline.windows {
                    let args = json!({ "ended by": window.what });
                    out.slice(thread, window.with(("window", "window")), args)?;
                }
            }
            if vcpu.role == "control" {
                for storm in &timeline.storms {
                    let args = json!({ "storm": run.scenario.storm, "part": storm.what + 1 });
                    out.slice(thread, storm.with(("storm", "storm")), args)?;
                }
            }
        }
        // Both are in the order of windows, and in that of vCPUs for each.
        let mut recorded = run.entries.iter();
        for entry in &timeline.entries {
            let record = recorded
                .find(|record| (record.cpu, record.kind) == (entry.what.cpu, entry.what.kind));
            let args = record.map_or(
                Value::Null,
                |record| json!({ "entry": record.title, "audit": record.audit }),
            );
            let name = format!("first entry: {}", entry.what.kind);
            let thread = self.vcpu(entry.what.cpu);
            out.slice(thread, entry.with(("entry", &name)), args)?;
        }
        Ok(())
    }

    /// The moments of all vCPUs, in the order of time.
    fn moments(&self) -> Vec<Moment> {
        let timeline = &self.run.timeline;
        let sends = timeline.writes.iter().map(|write| {
            let targets: Vec<usize> = write.targets.iter().collect();
            let mut args = json!({
                "kind": write.kind.to_string(),
                "targets": targets,
                "rip": format!("{:#x}", write.rip),
            });
            if let Some(blame) = cause_of(self.run, write) {
                explain(&mut args, blame);
            }
            Moment {
                time_ns: write.time_ns,
                cpu: write.source,
                cat: "ipi",
                name: format!("send {}", write.kind),
                args,
            }
        });
        let taken = timeline.deliveries.iter().map(|delivery| Moment {
            time_ns: delivery.time_ns,
            cpu: delivery.cpu,
            cat: if delivery.ipi { "ipi" } else { "interrupt" },
            name: took(delivery),
            args: json!({ "interrupted": if delivery.user { "user space" } else { "the kernel" } }),
        });
        let changes = timeline.changes.iter().map(|change| Moment {
            time_ns: change.time_ns,
            cpu: change.cpu,
            cat: "change",
            name: match change.what {
                Sighted::Poke => "poke text",
                Sighted::Flush => "flush mappings",
            }
            .to_owned(),
            args: json!({
                "start": format!("{:#x}", change.start),
                "end": format!("{:#x}", change.end),
            }),
        });
        let mut moments: Vec<Moment> = sends.chain(taken).chain(changes).collect();
        moments.sort_by_key(|moment| moment.time_ns);
        moments
    }

    fn on_vcpu<S: SerializeSeq>(
        &self,
        out: &mut Out<S>,
        cpu: usize,
        moments: &[Moment],
    ) -> Result<(), S::Error> {
        let mut borders = self.borders(cpu);
        let mine: Vec<&Moment> = moments.iter().filter(|moment| moment.cpu == cpu).collect();
        borders.extend(mine.iter().map(|moment| moment.time_ns));
        borders.sort_unstable();
        for moment in mine {
            let next = borders.partition_point(|&border| border <= moment.time_ns);
            let room = borders
                .get(next)
                .map_or(u64::MAX, |next| next - moment.time_ns);
            let span = Span {
                from_ns: moment.time_ns,
                to_ns: moment.time_ns + room.min(MOMENT_NS),
                what: (moment.cat, moment.name.as_str()),
            };
            out.slice(self.vcpu(cpu), span, moment.args.clone())?;
        }
        Ok(())
    }

    /// Where the stretches of a vCPU begin and end: a slice that crosses another is drawn wrong.
    fn borders(&self, cpu: usize) -> Vec<u64> {
        let timeline = &self.run.timeline;
        let windows = timeline.windows.iter().map(|s| (s.from_ns, s.to_ns));
        let storms = timeline.storms.iter().map(|s| (s.from_ns, s.to_ns));
        let entries = timeline.entries.iter().filter(|s| s.what.cpu == cpu);
        let entries = entries.map(|s| (s.from_ns, s.to_ns));
        let all = windows.chain(storms).chain(entries);
        all.flat_map(|(from, to)| [from, to]).collect()
    }

    fn arrows<S: SerializeSeq>(&self, out: &mut Out<S>) -> Result<(), S::Error> {
        for journey in self.run.timeline.journeys() {
            let Some(taken) = journey.taken else { continue };
            let write = journey.write;
            let name = write.kind.to_string();
            out.arrows += 1;
            let from = self.vcpu(write.source);
            out.arrow(from, write.time_ns, End::Start, &name)?;
            out.arrow(self.vcpu(journey.target), taken.time_ns, End::Finish, &name)?;
        }
        Ok(())
    }
}

fn took(delivery: &Delivery) -> String {
    format!("take {}", delivery.kind)
}

fn explain(args: &mut Value, blame: &Attribution) {
    let chain: Vec<String> = blame
        .chain
        .iter()
        .map(|frame: &Frame| call(frame))
        .collect();
    args["cause"] = json!(blame.reason());
    args["deferrable"] = json!(blame.deferrable);
    args["chain"] = json!(chain);
}

#[cfg(test)]
mod tests;
