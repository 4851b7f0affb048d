//! The fake guest's tracefs: what a kernel writes there of the IPIs that it sends.

use std::cell::Cell;

use ipirig_abi::TraceStep;

use crate::Script;

/// Counts nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct FakeClock(Cell<u64>);

impl FakeClock {
    /// The time after so many more.
    pub(crate) fn tick(&self, ns: u64) -> u64 {
        self.0.set(self.0.get() + ns);
        self.0.get()
    }
}

/// What a vCPU's time-stamp counter reads then: two ticks a nanosecond, and each counter by itself.
pub(crate) fn tsc(cpu: usize, ns: u64) -> u64 {
    2 * ns + 5000 * cpu as u64 + 77
}

/// Lines of `trace`.
#[derive(Debug, Default)]
pub(crate) struct FakeTrace {
    lines: Vec<String>,
    on: bool,
    /// What has not been read yet, once tracing stopped.
    text: Option<String>,
    /// Of the lines, by CPU.
    entries: Vec<u64>,
}

impl FakeTrace {
    /// The control vCPU queues a function for `cpus`, and sends them an IPI.
    pub(crate) fn send(&mut self, clock: &FakeClock, cpus: &[usize]) {
        for cpu in cpus {
            let fields =
                format!("cpu={cpu} callsite=smp_call_function_many_cond+0x1/0x2 func=work");
            self.line(
                clock,
                0,
                &format!("csd_queue_cpu: {fields} csd=00000000a{cpu}"),
            );
        }
        let mask = cpus.iter().fold(0_u64, |mask, cpu| mask | 1 << cpu);
        let mask = format!("{:08x},{:08x}", mask >> 32, mask & 0xffff_ffff);
        let fields = "callsite=smp_call_function_many_cond+0x1/0x2 \
                      callback=generic_smp_call_function_single_interrupt+0x0/0x10";
        self.line(
            clock,
            0,
            &format!("ipi_send_cpumask: cpumask={mask} {fields}"),
        );
    }

    /// The function begins and ends.
    pub(crate) fn begin(&mut self, clock: &FakeClock, cpu: usize) {
        let fields = format!("func=work, csd=00000000a{cpu}");
        self.line(clock, cpu, &format!("csd_function_entry: {fields}"));
        self.line(clock, cpu, &format!("csd_function_exit: {fields}"));
    }

    fn line(&mut self, clock: &FakeClock, cpu: usize, event: &str) {
        let tsc = tsc(cpu, clock.tick(1000));
        if self.on {
            let line = format!("           <...>-1       [{cpu:03}]   {tsc}: {event}");
            self.lines.push(line);
        }
    }

    /// What the agent answers.
    pub(crate) fn step(&mut self, step: u64, argument: u64, script: &Script) -> String {
        match u32::try_from(step)
            .ok()
            .and_then(|code| TraceStep::try_from(code).ok())
        {
            Some(TraceStep::Start) => {
                self.on = true;
                format!("ipi:ipi_send_cpu cpu & {argument:#x}\n")
            }
            Some(TraceStep::Stop) => {
                self.on = false;
                if let Some(doctor) = script.doctored {
                    doctor(&mut self.lines);
                }
                self.entries = (0..64)
                    .map(|cpu| {
                        let mark = format!(" [{cpu:03}] ");
                        let of_cpu = self.lines.iter().filter(|line| line.contains(&mark));
                        of_cpu.count() as u64
                    })
                    .collect();
                self.text = Some(format!("# tracer: nop\n#\n{}\n", self.lines.join("\n")));
                String::new()
            }
            Some(TraceStep::Read) => {
                // In parts that do not end where lines do.
                let mut text = self.text.take().unwrap_or_default();
                let rest = text.split_off(text.len().min(1000));
                self.text = Some(rest);
                text
            }
            Some(TraceStep::Stats) => {
                let entries = usize::try_from(argument)
                    .ok()
                    .and_then(|cpu| self.entries.get(cpu));
                let lost = if argument == 0 { script.trace_lost } else { 0 };
                format!(
                    "entries: {}\noverrun: 0\ncommit overrun: 0\nbytes: 1\ndropped events: {lost}\n",
                    entries.copied().unwrap_or_default()
                )
            }
            Some(TraceStep::Histogram) => "{ time: ~ 2^13 } hitcount: 404\n".to_owned(),
            None => "no such step".to_owned(),
        }
    }
}
