//! The kernel's own record of the IPIs that it sends: trace events in an instance of their own, with
//! the cpumask filters by which people look for what interrupts an isolated CPU.
//!
//! To enable an event is to flip a static key, which interrupts the very CPUs that are looked at. So
//! the rig has it done before a window opens, and undone after it closed. What is recorded is read
//! when all is over: each line costs the kernel some thousand instructions.

mod latency;

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;

use ipirig_abi::{TEXT_LEN, TraceStep};

use ipirig_storms::Interfaces;
use ipirig_storms::StormError;
use ipirig_storms::Tracefs;
use ipirig_system::{During, Failure};
use latency::Latency;

/// The instance: a storm that traces has the top level to itself.
const INSTANCE: &str = "ipirig";

/// What is recorded, and the field by which a filter finds the CPU that it concerns. The first two
/// are what the kernel sends (include/trace/events/ipi.h), the others what it wants done there (csd.h).
/// A function that is called for has no such field: it runs where it is recorded.
const EVENTS: [(&str, &str); 5] = [
    ("ipi/ipi_send_cpu", "cpu"),
    ("ipi/ipi_send_cpumask", "cpumask"),
    ("csd/csd_queue_cpu", "cpu"),
    ("csd/csd_function_entry", "common_cpu"),
    ("csd/csd_function_exit", "common_cpu"),
];

/// Whether names of tasks are recorded, for which the kernel enables two more events. An instance
/// takes this from the top level when it is made, and has no such file.
const RECORD_NAMES: &str = "options/record-cmd";

/// Settings of the instance. No flags that say whether interrupts were off: it saves time. The clock is the one that the rig
/// can read from outside. To choose a clock empties the buffer.
const SETTINGS: [(&str, &str); 4] = [
    ("tracing_on", "0"),
    ("options/irq-info", "0"),
    // How it began is what people ask: the first events are kept, not the last.
    ("options/overwrite", "0"),
    ("trace_clock", "x86-tsc"),
];

/// What the rig asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The step.
    pub(crate) kind: TraceStep,
    /// Its arguments.
    pub(crate) args: [u64; 2],
}

impl Step {
    /// The step that a command's arguments mean, if they mean one.
    pub(crate) fn new([code, first, second, _]: [u64; 4]) -> Option<Self> {
        let kind = TraceStep::try_from(u32::try_from(code).ok()?).ok()?;
        Some(Self {
            kind,
            args: [first, second],
        })
    }
}

/// Where reading stands.
#[derive(Debug, Default)]
pub(crate) struct Recording(RefCell<Option<File>>);

impl Recording {
    /// Takes a step and gives its text.
    pub(crate) fn take(
        &self,
        interfaces: &Interfaces<'_>,
        step: Step,
    ) -> Result<Vec<u8>, StormError> {
        let tracefs = Tracefs::open(interfaces)?;
        let [first, second] = step.args;
        match step.kind {
            TraceStep::Start => start(&tracefs, first, second),
            TraceStep::Stop => self.stop(&tracefs),
            TraceStep::Read => self.read(),
            TraceStep::Stats => stats(&tracefs, first),
            TraceStep::Histogram => latency::read(&tracefs),
        }
    }

    fn stop(&self, tracefs: &Tracefs) -> Result<Vec<u8>, StormError> {
        let instance = tracefs.instance(INSTANCE)?;
        instance.write("tracing_on", "0")?;
        latency::pause(&instance)?;
        for (event, _) in EVENTS {
            instance.write(format!("events/{event}/enable"), "0")?;
        }
        let path = instance.file("trace", "CONFIG_TRACING")?;
        let file = File::open(&path).during(|| format!("open {}", path.display()))?;
        *self.0.borrow_mut() = Some(file);
        Ok(Vec::new())
    }

    fn read(&self) -> Result<Vec<u8>, StormError> {
        let open = self.0.borrow();
        let file = open
            .as_ref()
            .ok_or_else(|| Failure::new("read the trace: it was not stopped yet"))?;
        Ok(part(file)?)
    }
}

fn start(tracefs: &Tracefs, cpus: u64, kib: u64) -> Result<Vec<u8>, StormError> {
    // Here, where it is not made yet if events are missing.
    for (event, _) in EVENTS {
        tracefs.file(
            &format!("events/{event}/enable"),
            "CONFIG_SMP with CONFIG_EVENT_TRACING and the events ipi and csd (since 6.5)",
        )?;
    }
    tracefs.file(RECORD_NAMES, "CONFIG_TRACING")?;
    tracefs.write(RECORD_NAMES, "0")?;
    let instance = tracefs.instance(INSTANCE);
    tracefs.write(RECORD_NAMES, "1")?;
    let instance = instance?;
    for (file, value) in SETTINGS {
        instance.write(file, value)?;
    }
    instance.write("buffer_size_kb", &kib.to_string())?;
    let mut filters = String::new();
    for (event, field) in EVENTS {
        let filter = format!("{field} & CPUS{{{}}}", list(cpus));
        instance.write(format!("events/{event}/filter"), &filter)?;
        filters += &format!("{} {filter}\n", event.replace('/', ":"));
    }
    let latency = Latency::new(tracefs, &instance, &list(cpus))?;
    for (event, _) in EVENTS {
        instance.write(format!("events/{event}/enable"), "1")?;
    }
    if let Some(latency) = latency {
        latency.clear()?;
    }
    instance.write("tracing_on", "1")?;
    Ok(filters.into())
}

fn stats(tracefs: &Tracefs, cpu: u64) -> Result<Vec<u8>, StormError> {
    let name = format!("per_cpu/cpu{cpu}/stats");
    let path = tracefs
        .instance(INSTANCE)?
        .file(&name, "such a CPU, or no CONFIG_TRACING")?;
    let file = File::open(&path).during(|| format!("open {}", path.display()))?;
    Ok(part(&file)?)
}

/// As much as the mailbox's text takes.
fn part(file: &File) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::with_capacity(TEXT_LEN);
    file.take(TEXT_LEN as u64)
        .read_to_end(&mut text)
        .during(|| "read the trace")?;
    Ok(text)
}

/// The CPUs of a mask as the kernel lists them: `0,2-4`.
fn list(mask: u64) -> String {
    let has = |cpu: u32| mask.checked_shr(cpu).is_some_and(|rest| rest & 1 == 1);
    let mut parts = Vec::new();
    let mut cpu = 0;
    while cpu < u64::BITS {
        let first = cpu;
        while has(cpu) {
            cpu += 1;
        }
        match cpu - first {
            0 => {}
            1 => parts.push(first.to_string()),
            _ => parts.push(format!("{first}-{}", cpu - 1)),
        }
        cpu += 1;
    }
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use ipirig_storms::Symbols;
    use ipirig_system::Errno;

    /// Files of tracefs that only what is tested needs to exist.
    fn tracing(events: bool) -> TempDir {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("sys/kernel/tracing");
        let instance = top.join("instances").join(INSTANCE);
        for dir in [&top, &instance] {
            for (event, _) in EVENTS.iter().filter(|_| events) {
                fs::create_dir_all(dir.join("events").join(event)).unwrap();
                for file in ["enable", "filter"] {
                    fs::write(dir.join("events").join(event).join(file), "").unwrap();
                }
            }
            fs::create_dir_all(dir.join("options")).unwrap();
            fs::create_dir_all(dir.join("per_cpu/cpu1")).unwrap();
            for (file, _) in SETTINGS {
                fs::write(dir.join(file), "").unwrap();
            }
            for file in ["trace", "buffer_size_kb", RECORD_NAMES] {
                fs::write(dir.join(file), "").unwrap();
            }
        }
        fs::write(instance.join("per_cpu/cpu1/stats"), "entries: 7\n").unwrap();
        root
    }

    fn take(root: &Path, recording: &Recording, kind: TraceStep, args: [u64; 2]) -> String {
        let interfaces = Interfaces {
            triggers: None,
            housekeeping: &[0],
            symbols: Symbols::default(),
            root,
            mount_tracefs: |_| Err(Errno(libc::ENODEV)),
        };
        let said = match recording.take(&interfaces, Step { kind, args }) {
            Ok(text) => String::from_utf8(text).unwrap(),
            Err(StormError::Lacking(what)) => format!("lacking: {what}"),
            Err(StormError::Failed(failure)) => format!("failed: {failure}"),
            Err(StormError::NoModule) => unreachable!(),
        };
        said.replace(&root.display().to_string(), "")
    }

    fn of_instance(root: &Path, file: &str) -> String {
        let dir = root.join("sys/kernel/tracing/instances").join(INSTANCE);
        fs::read_to_string(dir.join(file)).unwrap()
    }

    #[test]
    fn recording_starts_with_filters_on_the_cpus_and_is_read_in_parts_once_it_stopped() {
        let root = tracing(true);
        let root = root.path();
        let recording = Recording::default();
        assert_eq!(
            take(root, &recording, TraceStep::Start, [0b1101, 64]),
            "ipi:ipi_send_cpu cpu & CPUS{0,2-3}\n\
             ipi:ipi_send_cpumask cpumask & CPUS{0,2-3}\n\
             csd:csd_queue_cpu cpu & CPUS{0,2-3}\n\
             csd:csd_function_entry common_cpu & CPUS{0,2-3}\n\
             csd:csd_function_exit common_cpu & CPUS{0,2-3}\n"
        );
        assert_eq!(
            of_instance(root, "events/csd/csd_queue_cpu/filter"),
            "cpu & CPUS{0,2-3}"
        );
        // What is written to a file of the test stays in it.
        assert_eq!(of_instance(root, "tracing_on"), "01");
        assert_eq!(of_instance(root, "buffer_size_kb"), "64");
        assert_eq!(of_instance(root, "trace_clock"), "x86-tsc");
        assert_eq!(
            take(root, &recording, TraceStep::Read, [0; 2]),
            "failed: read the trace: it was not stopped yet"
        );

        assert_eq!(take(root, &recording, TraceStep::Stop, [0; 2]), "");
        assert_eq!(of_instance(root, "events/ipi/ipi_send_cpu/enable"), "10");
        assert_eq!(of_instance(root, "tracing_on"), "010");
        let trace = root.join("sys/kernel/tracing/instances/ipirig/trace");
        fs::write(trace, vec![b'x'; TEXT_LEN + 3]).unwrap();
        let read = || take(root, &recording, TraceStep::Read, [0; 2]).len();
        assert_eq!([read(), read(), read()], [TEXT_LEN, 3, 0]);
        assert_eq!(
            take(root, &recording, TraceStep::Stats, [1, 0]),
            "entries: 7\n"
        );
    }

    #[test]
    fn a_kernel_with_histograms_counts_by_itself_while_it_traces() {
        let root = tracing(true);
        let root = root.path();
        let recording = Recording::default();
        let top = root.join("sys/kernel/tracing");
        let instance = top.join("instances").join(INSTANCE);
        let synthetic = instance.join("events/synthetic/csd_latency");
        fs::create_dir_all(&synthetic).unwrap();
        let queue = instance.join("events/csd/csd_queue_cpu");
        let begin = instance.join("events/csd/csd_function_entry");
        for file in [
            top.join("synthetic_events"),
            queue.join("hist"),
            queue.join("trigger"),
            begin.join("trigger"),
            synthetic.join("trigger"),
        ] {
            fs::write(file, "").unwrap();
        }
        fs::write(synthetic.join("hist"), "{ time: ~ 2^22 } hitcount: 3\n").unwrap();
        take(root, &recording, TraceStep::Start, [0b110, 64]);
        take(root, &recording, TraceStep::Stop, [0; 2]);
        assert_eq!(
            of_instance(root, "events/csd/csd_queue_cpu/trigger"),
            "hist:keys=cpu,csd.hex:ts=common_timestamp:clock=x86-tsc:size=512 if cpu & CPUS{1-2}"
        );
        assert_eq!(
            of_instance(root, "events/synthetic/csd_latency/trigger"),
            "hist:keys=time.log2:size=128hist:keys=time.log2:size=128:clear\
             hist:keys=time.log2:size=128:pause"
        );
        assert_eq!(
            take(root, &recording, TraceStep::Histogram, [0; 2]),
            "{ time: ~ 2^22 } hitcount: 3\n"
        );
    }

    #[test]
    fn a_kernel_that_does_not_trace_says_what_it_lacks() {
        let root = tracing(false);
        let recording = Recording::default();
        assert_eq!(
            take(root.path(), &recording, TraceStep::Start, [4, 64]),
            "lacking: no CONFIG_SMP with CONFIG_EVENT_TRACING and the events ipi and csd (since \
             6.5): /sys/kernel/tracing/events/ipi/ipi_send_cpu/enable is missing"
        );
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(
            take(empty.path(), &recording, TraceStep::Start, [4, 64]),
            "lacking: no CONFIG_TRACING: tracefs cannot be mounted on /sys/kernel/tracing"
        );
    }

    #[test]
    fn masks_are_listed_as_the_kernel_lists_them() {
        for (mask, expected) in [
            (0, ""),
            (1, "0"),
            (0b110, "1-2"),
            (1 << 63 | 0b1011, "0-1,3,63"),
            (u64::MAX, "0-63"),
        ] {
            assert_eq!(list(mask), expected);
        }
    }
}
