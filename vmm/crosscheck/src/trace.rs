//! Parses what tracefs shows: `trace`, with the clock `x86-tsc` and without flags, and
//! `per_cpu/cpuN/stats`. Hostile input: a line that is no event is an error that names it.

use ipirig_abi::MAX_CPUS;
use ipirig_apic::CpuSet;

use super::callsites::Callsite;

/// The events of a trace, in the order in which the kernel shows them: by time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trace {
    pub(crate) events: Vec<Event>,
    /// CPUs of which the kernel says that events are missing in between.
    pub(crate) lost: Vec<usize>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// The CPU on which it was recorded.
    pub(crate) cpu: usize,
    /// When, by that CPU's time-stamp counter.
    pub(crate) tsc: u64,
    pub(crate) what: What,
}

/// What was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// An IPI is about to be sent to these CPUs.
    Send {
        targets: CpuSet,
        why: Why,
        /// Where the function that sends it returns to, if that is said.
        callsite: Option<Callsite>,
    },
    /// A function is about to be queued for a CPU.
    Queue {
        target: usize,
        function: String,
        csd: String,
    },
    /// A queued function begins.
    Begin { function: String, csd: String },
    /// It has returned.
    End,
}

/// What an IPI is for, by its callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Why {
    /// To call queued functions: `generic_smp_call_function_single_interrupt`, single or not
    /// (kernel/smp.c).
    CallFunction,
    /// To reschedule: none (`arch_smp_send_reschedule` of include/linux/smp.h).
    Reschedule,
    /// To have a CPU interrupt itself: any other, the work's function (kernel/irq_work.c).
    IrqWork,
}

/// What a CPU's buffer says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stats {
    /// Events in the buffer.
    pub(crate) entries: u64,
    /// Events that were lost, in whatever way.
    pub(crate) lost: u64,
}

/// Why a text is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TraceError {
    /// A line of `trace`.
    #[error("line {line} of the trace makes no sense: {text:?}")]
    Line {
        /// From 1.
        line: usize,
        /// The line itself, cut.
        text: String,
    },
    /// `stats` lacks a number.
    #[error("the buffer's stats have no number `{0}`")]
    Stats(&'static str),
}

/// Characters of a line that go into a message.
const SHOWN: usize = 120;

/// Parses `trace`.
pub(crate) fn parse(text: &str) -> Result<Trace, TraceError> {
    let mut trace = Trace::default();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(cpu) = lost(line) {
            trace.lost.push(cpu);
            continue;
        }
        match event(line) {
            Some(event) => trace.events.push(event),
            None => {
                return Err(TraceError::Line {
                    line: index + 1,
                    text: line.chars().take(SHOWN).collect(),
                });
            }
        }
    }
    Ok(trace)
}

/// `CPU:1 [LOST 5 EVENTS]`, or without the number (print_trace_line, kernel/trace/trace.c).
fn lost(line: &str) -> Option<usize> {
    let (cpu, rest) = line.strip_prefix("CPU:")?.split_once(' ')?;
    (rest.starts_with("[LOST ") && rest.ends_with("EVENTS]")).then_some(())?;
    self::cpu(cpu)
}

/// `    <...>-1   [000]   123456: csd_queue_cpu: cpu=2 callsite=... func=... csd=...`
fn event(line: &str) -> Option<Event> {
    // A task may be named like a CPU, but its name is too short for a whole event.
    let mut brackets = line.match_indices(" [");
    brackets.find_map(|(at, bracket)| after_task(line.get(at + bracket.len()..)?))
}

fn after_task(rest: &str) -> Option<Event> {
    let (cpu, rest) = rest.split_once("] ")?;
    let (tsc, rest) = rest.split_once(": ")?;
    let (name, fields) = rest.split_once(": ")?;
    Some(Event {
        cpu: self::cpu(cpu)?,
        tsc: tsc.trim().parse().ok()?,
        what: what(name, fields)?,
    })
}

fn what(name: &str, fields: &str) -> Option<What> {
    let send = |targets| {
        let callback = field(fields, "callback")?;
        let why = match symbol(callback) {
            "generic_smp_call_function_single_interrupt" => Why::CallFunction,
            "0x0" => Why::Reschedule,
            _ => Why::IrqWork,
        };
        let callsite = field(fields, "callsite").and_then(Callsite::parse);
        Some(What::Send {
            targets,
            why,
            callsite,
        })
    };
    match name {
        "ipi_send_cpu" => send([cpu(field(fields, "cpu")?)?].into_iter().collect()),
        "ipi_send_cpumask" => send(mask(field(fields, "cpumask")?)?),
        "csd_queue_cpu" => Some(What::Queue {
            target: cpu(field(fields, "cpu")?)?,
            function: symbol(field(fields, "func")?).to_owned(),
            csd: field(fields, "csd")?.to_owned(),
        }),
        "csd_function_entry" => Some(What::Begin {
            function: symbol(field(fields, "func")?).to_owned(),
            csd: field(fields, "csd")?.to_owned(),
        }),
        "csd_function_exit" => Some(What::End),
        _ => None,
    }
}

/// The value of `name=value`, up to the next blank. A module's symbol is followed by the module's name
/// in brackets, which is left out.
fn field<'a>(fields: &'a str, name: &str) -> Option<&'a str> {
    let words = fields.split_whitespace();
    let mut values = words.filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Some(values.next()?.trim_end_matches(','))
}

/// A symbol without its offset.
fn symbol(text: &str) -> &str {
    text.split_once('+').map_or(text, |(name, _)| name)
}

fn cpu(text: &str) -> Option<usize> {
    text.parse().ok().filter(|&cpu| cpu < MAX_CPUS)
}

/// `00000000,00000006`, which is the default (trace_print_bitmask_seq, kernel/trace/trace_output.c), or
/// the same as a list, where an option of later kernels asks for it.
fn mask(text: &str) -> Option<CpuSet> {
    let mut words = text.split(',');
    let whole = |word: &str| word.len() == 8 && word.bytes().all(|b| b.is_ascii_hexdigit());
    if !words.clone().all(whole) {
        return list(text);
    }
    let bits = words.try_fold(0_u64, |bits, word| {
        let high = bits.checked_mul(1 << 32)?;
        Some(high | u64::from_str_radix(word, 16).ok()?)
    });
    bits.map(CpuSet::from_bits)
}

/// `1-2,5`.
fn list(text: &str) -> Option<CpuSet> {
    text.split(',').try_fold(CpuSet::EMPTY, |set, part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (cpu(first)?, cpu(last)?);
        (first <= last).then_some(())?;
        Some(set | (first..=last).collect())
    })
}

/// Parses `per_cpu/cpuN/stats` (tracing_stats_read, kernel/trace/trace.c).
pub(crate) fn stats(text: &str) -> Result<Stats, TraceError> {
    let number = |name: &'static str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(':'));
        let value = lines.find(|(key, _)| *key == name);
        value
            .and_then(|(_, value)| value.trim().parse::<u64>().ok())
            .ok_or(TraceError::Stats(name))
    };
    let ways = ["overrun", "commit overrun", "dropped events"];
    let lost = ways
        .into_iter()
        .try_fold(0_u64, |sum, name| Ok(sum.saturating_add(number(name)?)))?;
    Ok(Stats {
        entries: number("entries")?,
        lost,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_event_is_read_with_its_cpu_time_and_fields() {
        let text = "\
# tracer: nop
#
# entries-in-buffer/entries-written: 6/6   #P:3
#
#           TASK-PID     CPU#     TIMESTAMP  FUNCTION
#              | |         |         |         |
           <...>-1       [000]   36029171482: csd_queue_cpu: cpu=2 callsite=on_each_cpu_cond_mask+0x20/0x40 func=do_sync_core csd=000000006b1f5f5f
      a [002] 7-3        [000]   36029171999: ipi_send_cpumask: cpumask=00000000,00000006 callsite=on_each_cpu_cond_mask+0x20/0x40 callback=generic_smp_call_function_single_interrupt+0x0/0x10
           <...>-1       [000]   36029172000: ipi_send_cpu: cpu=1 callsite=x+0x2/0x4 [ipirig] callback=0x0
           <...>-1       [001]   36029172100: ipi_send_cpu: cpu=1 callsite=x+0x2/0x4 [ipirig] callback=work_func+0x0/0x4 [ipirig]
CPU:2 [LOST 5 EVENTS]
           <...>-77      [002]   36029173333: csd_function_entry: func=do_sync_core, csd=000000006b1f5f5f
           <...>-77      [002]   36029173444: csd_function_exit: func=do_sync_core, csd=000000006b1f5f5f
";
        let event = |cpu, tsc, what| Event { cpu, tsc, what };
        let send = |targets, why, function: &str, offset| What::Send {
            targets: CpuSet::from_bits(targets),
            why,
            callsite: Some(Callsite {
                function: function.to_owned(),
                offset,
            }),
        };
        let (function, csd) = ("do_sync_core".to_owned(), "000000006b1f5f5f".to_owned());
        let expected = Trace {
            events: vec![
                event(
                    0,
                    36_029_171_482,
                    What::Queue {
                        target: 2,
                        function: function.clone(),
                        csd: csd.clone(),
                    },
                ),
                event(
                    0,
                    36_029_171_999,
                    send(0b110, Why::CallFunction, "on_each_cpu_cond_mask", 0x20),
                ),
                event(0, 36_029_172_000, send(0b10, Why::Reschedule, "x", 2)),
                event(1, 36_029_172_100, send(0b10, Why::IrqWork, "x", 2)),
                event(2, 36_029_173_333, What::Begin { function, csd }),
                event(2, 36_029_173_444, What::End),
            ],
            lost: vec![2],
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn what_is_no_event_is_an_error_that_names_the_line() {
        let good = "<...>-1 [000] 5: csd_function_exit: func=f, csd=1\n";
        for bad in [
            "<...>-1 [000] 5: csd_function_exi",
            "<...>-1 [000] 5.000001: csd_function_exit: func=f, csd=1",
            "<...>-1 [064] 5: csd_function_exit: func=f, csd=1",
            "<...>-1 [000] 5: ipi_send_cpu: cpu=99 callback=0x0",
            "<...>-1 [000] 5: ipi_send_cpu: cpu=1 callsite=x",
            "<...>-1 [000] 5: ipi_send_cpumask: cpumask=2-1 callback=0x0",
            "<...>-1 [000] 5: ipi_send_cpumask: cpumask=0-99999999999 callback=0x0",
            "<...>-1 [000] 5: sched_waking: comm=x",
            "CPU:9999 [LOST EVENTS]",
        ] {
            let expected = TraceError::Line {
                line: 2,
                text: bad.to_owned(),
            };
            assert_eq!(parse(&format!("{good}{bad}\n{good}")), Err(expected));
        }
    }

    #[test]
    fn a_mask_is_words_or_a_list() {
        for (text, expected) in [
            ("00000000,00000006", Some(0b110)),
            ("00000000,00000000,80000000,00000001", Some(1 << 63 | 1)),
            ("00000001,00000000,00000000", None),
            ("1-2", Some(0b110)),
            ("0,2-3,63", Some(1 << 63 | 0b1101)),
            ("7", Some(1 << 7)),
            ("64", None),
            ("", None),
        ] {
            assert_eq!(mask(text), expected.map(CpuSet::from_bits), "{text}");
        }
    }

    #[test]
    fn stats_add_up_all_ways_to_lose_an_event() {
        let text = "entries: 12\noverrun: 3\ncommit overrun: 1\nbytes: 600\noldest event ts: 5\n\
                    now ts: 9\ndropped events: 2\nread events: 0\n";
        let expected = Stats {
            entries: 12,
            lost: 6,
        };
        assert_eq!(stats(text), Ok(expected));
        assert_eq!(
            stats("entries: 12\noverrun: x\n"),
            Err(TraceError::Stats("overrun"))
        );
        assert_eq!(stats(""), Err(TraceError::Stats("overrun")));
    }

    proptest! {
        #[test]
        fn any_text_is_taken_without_a_panic(text in "([ -~]|\n|é){0,400}") {
            let _ = (parse(&text), stats(&text));
        }

        #[test]
        fn a_line_with_any_byte_changed_is_taken_without_a_panic(
            at in 0_usize..110, with in any::<char>()
        ) {
            let line = "   <...>-1 [000] 36029171482: ipi_send_cpumask: cpumask=1-2,5 \
                        callsite=f+0x2/0x4 [m] callback=g+0x0/0x1";
            let changed: String = line
                .chars()
                .enumerate()
                .map(|(i, c)| if i == at { with } else { c })
                .collect();
            let _ = parse(&changed);
        }
    }
}
