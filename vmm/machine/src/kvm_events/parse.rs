//! Lines of the host's trace, and which of them belong together.

use std::collections::{BTreeMap, BTreeSet};

use ipirig_apic::{Accepted, AcceptedKind, CpuSet, DeliveryMode, Ipi, Origin, Sent, Shorthand};

use crate::clock;
use crate::observer::{AcceptedEvent, IpiEvent, Observer};

/// A line of `trace_pipe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Event(Event),
    /// Events that the buffer lost; at least one, where it does not say how many.
    Lost(u64),
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// The thread that caused it.
    pub(super) thread: i32,
    /// When, in nanoseconds of CLOCK_MONOTONIC.
    pub(super) time_ns: u64,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// An ICR was written.
    Sends { vector: u8, mode: DeliveryMode },
    /// An interrupt became pending at this APIC.
    Accepts {
        apic: usize,
        vector: u8,
        mode: DeliveryMode,
    },
    /// This interrupt is injected at the next entry of the guest.
    Injects { vector: u8 },
    /// The guest is entered; before what is injected its next instruction is here.
    Enters { rip: u64 },
}

/// The one thing in brackets that an event ends with.
const REINJECTED: &str = " [reinjected]";
/// Where user space ends (Documentation/arch/x86/x86_64/mm.rst, with five-level page tables).
const USER_END: u64 = 1 << 56;

impl Line {
    /// `    vcpu0-123   [001] d..1.   77.123456: kvm_apic_ipi: dst 2 vec 251 (Fixed|physical|...)`
    pub(super) fn parse(line: &str) -> Option<Self> {
        if let Some(rest) = line.strip_prefix("CPU:") {
            let (_, lost) = rest.split_once("[LOST ")?;
            let number = lost.split(' ').next().and_then(|n| n.parse().ok());
            return Some(Self::Lost(number.unwrap_or(1)));
        }
        let line = line.strip_suffix(REINJECTED).unwrap_or(line);
        // A thread's name may have anything in it; the event's has no ": ".
        let (task, rest) = line.rsplit_once(" [")?;
        let thread = task.trim_end().rsplit('-').next()?.parse().ok()?;
        let (_, rest) = rest.split_once("] ")?;
        let (time, rest) = rest.split_once(": ")?;
        let (name, fields) = rest.split_once(": ")?;
        let time = time.split_whitespace().last()?;
        Some(Self::Event(Event {
            thread,
            time_ns: nanoseconds(time)?,
            what: what(name, fields)?,
        }))
    }
}

/// `77.123456`, seconds.
fn nanoseconds(time: &str) -> Option<u64> {
    let (seconds, fraction) = time.split_once('.')?;
    let digits = u32::try_from(fraction.len()).ok().filter(|&n| n <= 9)?;
    let part: u64 = fraction.parse().ok()?;
    let seconds: u64 = seconds.parse().ok()?;
    let part = part.checked_mul(10_u64.pow(9 - digits))?;
    seconds.checked_mul(1_000_000_000)?.checked_add(part)
}

fn what(name: &str, fields: &str) -> Option<What> {
    match name {
        "kvm_inj_virq" => return injects(fields),
        "kvm_entry" => return enters(fields),
        _ => {}
    }
    let (numbers, modes) = fields.split_once(" (")?;
    let mode = mode(modes.split(['|', ')']).next()?)?;
    let mut words = numbers.split(' ');
    let (_, target, _, vector) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let vector = vector.parse().ok()?;
    match name {
        "kvm_apic_ipi" => Some(What::Sends { vector, mode }),
        "kvm_apic_accept_irq" => Some(What::Accepts {
            apic: usize::from_str_radix(target, 16).ok()?,
            vector,
            mode,
        }),
        _ => None,
    }
}

/// `IRQ 0xfb`, with ` [reinjected]` or not; `irq 251` before Linux 6.1.
fn injects(fields: &str) -> Option<What> {
    let mut words = fields.split(' ');
    let (_, number) = (words.next()?, words.next()?);
    let vector = match number.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16).ok()?,
        None => number.parse().ok()?,
    };
    Some(What::Injects { vector })
}

/// `vcpu 2, rip 0x401136`, and more since Linux 6.9.
fn enters(fields: &str) -> Option<What> {
    let (_, rest) = fields.split_once("rip 0x")?;
    let end = rest.find(|c: char| !c.is_ascii_hexdigit());
    let digits = rest.get(..end.unwrap_or(rest.len()))?;
    let rip = u64::from_str_radix(digits, 16).ok()?;
    Some(What::Enters { rip })
}

fn mode(name: &str) -> Option<DeliveryMode> {
    Some(match name {
        "Fixed" => DeliveryMode::Fixed,
        "LowPrio" => DeliveryMode::LowestPriority,
        "SMI" => DeliveryMode::Smi,
        "NMI" => DeliveryMode::Nmi,
        "INIT" => DeliveryMode::Init,
        "SIPI" => DeliveryMode::Startup,
        _ => return None,
    })
}

/// What belongs to events to come, by vCPU.
#[derive(Debug, Default)]
pub(super) struct Senders {
    /// Sends whose acceptances may still come: a thread that writes an ICR makes the interrupt pending at
    /// each target before it does anything else.
    sends: BTreeMap<usize, IpiEvent>,
    /// Vectors of IPIs that are pending or taken: no interrupt that is injected is one but of these.
    ipis: BTreeMap<usize, BTreeSet<u8>>,
    /// What the next entry of the guest injects.
    injected: BTreeMap<usize, u8>,
}

impl Senders {
    /// An event of vCPU `cpu`.
    pub(super) fn take(&mut self, cpu: usize, event: &Event, observer: &dyn Observer) {
        let time_ns = clock::of_monotonic(event.time_ns);
        match event.what {
            What::Sends { vector, mode } => {
                let send = IpiEvent {
                    time_ns,
                    sent: Sent {
                        ipi: Ipi {
                            source: cpu,
                            vector,
                            mode,
                            shorthand: Shorthand::None,
                            targets: CpuSet::EMPTY,
                            undeliverable: false,
                        },
                        coalesced: CpuSet::EMPTY,
                        wake: CpuSet::EMPTY,
                    },
                    rip: 0,
                };
                if let Some(before) = self.sends.insert(cpu, send) {
                    observer.ipi(&before);
                }
            }
            What::Accepts { apic, vector, mode } => {
                let send = self.sends.get_mut(&cpu).map(|send| &mut send.sent.ipi);
                let ipi = send.filter(|ipi| (ipi.vector, ipi.mode) == (vector, mode));
                // Not twice to one target: the second is the APIC's own.
                let new = ipi.is_some_and(|ipi| ipi.targets.insert(apic));
                let origin = if new { Origin::Ipi } else { Origin::Timer };
                if new {
                    self.ipis.entry(apic).or_default().insert(vector);
                }
                let kind = match mode {
                    DeliveryMode::Nmi => AcceptedKind::Nmi,
                    DeliveryMode::Init => AcceptedKind::Init,
                    DeliveryMode::Startup => AcceptedKind::Startup(vector),
                    _ => AcceptedKind::Fixed(vector),
                };
                observer.accepted(&AcceptedEvent {
                    time_ns,
                    cpu: apic,
                    accepted: Accepted {
                        kind,
                        origin,
                        merged: false,
                    },
                    cpl: None,
                    idle: false,
                });
            }
            What::Injects { vector } => {
                self.injected.insert(cpu, vector);
            }
            What::Enters { rip } => {
                let vector = self.injected.remove(&cpu);
                let ipis = self.ipis.entry(cpu).or_default();
                // Once, though the entry that injects may fail and be tried again.
                let taken = vector.is_some_and(|vector| ipis.remove(&vector));
                if taken && rip < USER_END {
                    observer.interrupted_user(cpu);
                }
            }
        }
    }

    /// Nothing more belongs to what was sent.
    pub(super) fn finish(&mut self, observer: &dyn Observer) {
        for (_, send) in std::mem::take(&mut self.sends) {
            observer.ipi(&send);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn event(line: &str) -> Event {
        match Line::parse(line) {
            Some(Line::Event(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_are_read_with_their_thread_time_and_fields() {
        let line = "           vcpu0-1234    [001] d..1.    77.123456: kvm_apic_ipi: dst 2 vec 251 \
                    (Fixed|physical|assert|edge|all-but-self)";
        let expected = Event {
            thread: 1234,
            time_ns: 77_123_456_000,
            what: What::Sends {
                vector: 251,
                mode: DeliveryMode::Fixed,
            },
        };
        assert_eq!(event(line), expected);
        let line =
            " a [x] b-7 [000] ..... 1.000001: kvm_apic_accept_irq: apicid 1f vec 2 (NMI|edge)";
        let expected = What::Accepts {
            apic: 31,
            vector: 2,
            mode: DeliveryMode::Nmi,
        };
        assert_eq!(event(line).what, expected);
        let injects = |vector| What::Injects { vector };
        for (fields, expected) in [
            ("kvm_inj_virq: IRQ 0xfb", injects(251)),
            ("kvm_inj_virq: IRQ 0xfb [reinjected]", injects(251)),
            ("kvm_inj_virq: irq 251", injects(251)),
            (
                "kvm_entry: vcpu 2, rip 0x401136",
                What::Enters { rip: 0x0040_1136 },
            ),
            (
                "kvm_entry: vcpu 2, rip 0xffffffff81000000 intr_info 0x800000fb error_code 0x0",
                What::Enters {
                    rip: 0xffff_ffff_8100_0000,
                },
            ),
            (
                "kvm_entry: vcpu 2, rip 0x401136[immediate exit]",
                What::Enters { rip: 0x0040_1136 },
            ),
        ] {
            let line = format!("x-1 [000] ..... 1.000001: {fields}");
            assert_eq!(event(&line).what, expected, "{fields}");
        }
        assert_eq!(Line::parse("CPU:1 [LOST 17 EVENTS]"), Some(Line::Lost(17)));
        assert_eq!(Line::parse("CPU:1 [LOST EVENTS]"), Some(Line::Lost(1)));
        for line in [
            "",
            "x-1 [000] ..... 1.000001: kvm_apic_eoi: apicid 0 vector 251",
            "x-1 [000] ..... 1.000001: kvm_apic_ipi: dst 0 vec 999 (Fixed|physical)",
            "x-y [000] ..... 1.000001: kvm_apic_ipi: dst 0 vec 1 (Fixed|physical)",
            "x-1 [000] ..... 1.000001: kvm_entry: vcpu 2, rip 0x",
            "x-1 [000] ..... 1.000001: kvm_inj_virq: IRQ 0x1fb",
            "x-1 [000] ..... later: kvm_apic_ipi: dst 0 vec 1 (Fixed|physical)",
        ] {
            assert_eq!(Line::parse(line), None, "{line}");
        }
    }

    #[derive(Debug, Default)]
    struct RecordingObserver(Mutex<Vec<String>>);

    impl Observer for RecordingObserver {
        fn ipi(&self, event: &IpiEvent) {
            let ipi = &event.sent.ipi;
            let targets: Vec<usize> = ipi.targets.iter().collect();
            let words = format!("{} sends {} to {targets:?}", ipi.source, ipi.vector);
            self.0.lock().unwrap().push(words);
        }

        fn accepted(&self, event: &AcceptedEvent) {
            let Accepted { kind, origin, .. } = event.accepted;
            let words = format!("{} accepts {kind:?} by {origin:?}", event.cpu);
            self.0.lock().unwrap().push(words);
        }

        fn interrupted_user(&self, cpu: usize) {
            self.0
                .lock()
                .unwrap()
                .push(format!("{cpu} left user space"));
        }
    }

    #[test]
    fn what_becomes_pending_belongs_to_the_send_before_it_or_to_a_timer() {
        let seen = RecordingObserver::default();
        let mut senders = Senders::default();
        let mut take = |cpu, what| {
            let event = Event {
                thread: 1,
                time_ns: 0,
                what,
            };
            senders.take(cpu, &event, &seen);
        };
        let fixed = DeliveryMode::Fixed;
        let sends = |vector| What::Sends {
            vector,
            mode: fixed,
        };
        let accepts = |apic, vector| What::Accepts {
            apic,
            vector,
            mode: fixed,
        };
        take(0, sends(251));
        take(1, accepts(1, 236));
        take(0, accepts(1, 251));
        take(0, accepts(2, 251));
        take(0, accepts(0, 236));
        take(0, sends(252));
        take(0, accepts(2, 252));
        senders.finish(&seen);
        let expected = [
            "1 accepts Fixed(236) by Timer",
            "1 accepts Fixed(251) by Ipi",
            "2 accepts Fixed(251) by Ipi",
            "0 accepts Fixed(236) by Timer",
            "0 sends 251 to [1, 2]",
            "2 accepts Fixed(252) by Ipi",
            "0 sends 252 to [2]",
        ];
        assert_eq!(*seen.0.lock().unwrap(), expected);
    }
    #[test]
    fn an_ipi_interrupted_user_space_if_the_entry_that_injects_it_says_so() {
        let seen = RecordingObserver::default();
        let mut senders = Senders::default();
        let mut take = |cpu, what| {
            let event = Event {
                thread: 1,
                time_ns: 0,
                what,
            };
            senders.take(cpu, &event, &seen);
        };
        let (vector, mode) = (251, DeliveryMode::Fixed);
        let (user, kernel) = (0x0040_1136, 0xffff_ffff_8100_0000);
        let send = [
            (0, What::Sends { vector, mode }),
            (
                0,
                What::Accepts {
                    apic: 2,
                    vector,
                    mode,
                },
            ),
        ];
        let injects = |vector| (2, What::Injects { vector });
        let enters = |rip| (2, What::Enters { rip });
        let mut outcome = |events: &[(usize, What)]| {
            seen.0.lock().unwrap().clear();
            for &(cpu, what) in send.iter().chain(events) {
                take(cpu, what);
            }
            let words = seen.0.lock().unwrap();
            words.iter().filter(|w| w.contains("left")).count()
        };
        assert_eq!(outcome(&[injects(251), enters(user)]), 1);
        assert_eq!(outcome(&[injects(251), enters(kernel), enters(user)]), 0);
        // Cancelled before the entry; failed in the entry.
        assert_eq!(outcome(&[injects(251), injects(251), enters(user)]), 1);
        assert_eq!(
            outcome(&[injects(251), enters(user), injects(251), enters(user)]),
            1
        );
        // A timer's, with the IPI pending.
        assert_eq!(outcome(&[injects(236), enters(user)]), 0);
    }
}
