//! Streams of accesses to APICs, with saves and restores between them.

use std::sync::Arc;

use ipirig_apic::{Action, Bus, CpuSet, Line, LocalApic, SavedApic};

use crate::Numbers;

/// How many CPUs a machine has.
const CPUS: usize = 5;

/// APICs on a bus.
#[derive(Debug)]
pub struct Apics {
    bus: Arc<Bus>,
    apics: Vec<LocalApic>,
    now: u64,
}

impl Apics {
    /// As they are after reset; of two CPUs x2APIC is not offered. `None` only if there is no such machine.
    #[must_use]
    pub fn new() -> Option<Self> {
        let bus = Bus::new(CPUS).ok()?;
        let apics = (0..CPUS).map(|cpu| {
            let mut apic = LocalApic::new(Arc::clone(&bus), cpu, cpu < 3).ok()?;
            if cpu % 2 == 0 {
                apic.offer_tsc_deadline();
            }
            Some(apic)
        });
        Some(Self {
            apics: apics.collect::<Option<_>>()?,
            bus,
            now: 0,
        })
    }

    /// One access, which `word` and `value` choose, and what follows from it.
    ///
    /// # Panics
    /// If an invariant is not kept.
    pub fn step(&mut self, word: u64, value: u64) {
        let cpu = (word & 0xff) as usize % CPUS;
        // Time goes by, mostly slowly.
        self.now = self.now.saturating_add(match word >> 8 & 0x3f {
            0 => value >> 20,
            1 => 0,
            _ => word >> 48,
        });
        let now = self.now;
        let Some(apic) = self.apics.get_mut(cpu) else {
            return;
        };
        // Mostly where registers are, and few bits, so that not all is refused.
        let register = (word >> 16 & 0x3f) as u16;
        let low = match word >> 24 & 3 {
            0 => value as u32,
            1 => u32::from(value as u8),
            2 => 0x1ff,
            _ => value as u32 & 0x000c_c7ff,
        };
        let action = match word >> 28 & 0xf {
            0 => {
                apic.mmio_read(register << 4, now);
                Action::None
            }
            1..=5 => apic.mmio_write(register << 4, low, now),
            6 => {
                let _ = apic.msr_read(0x800 + u32::from(register), now);
                Action::None
            }
            7..=10 => {
                let high = if value >> 62 == 0 {
                    value >> 32 & 0xff
                } else {
                    0
                };
                let written = apic.msr_write(
                    0x800 + u32::from(register),
                    high << 32 | u64::from(low),
                    now,
                );
                written.unwrap_or(Action::None)
            }
            11 => {
                let base = if value & 0xf == 0 {
                    value
                } else {
                    0xfee0_0000 | (value >> 8 & 3) << 10
                };
                let _ = apic.set_apic_base(base);
                Action::None
            }
            12 => {
                apic.set_cr8(value as u8);
                if cpu.is_multiple_of(2) {
                    apic.set_tsc_deadline(value, value >> 8, now);
                }
                Action::None
            }
            13 => {
                let lines = [Line::Nmi, Line::Timer];
                if let Some(line) = lines.get(value as usize & 1) {
                    apic.raise(*line);
                }
                Action::None
            }
            _ => {
                let work = apic.poll(now);
                apic.accept_init(&());
                apic.accept_startup(&());
                apic.accept_nmi(&());
                if let Some(vector) = work.interrupt {
                    apic.accept_interrupt(vector, &());
                }
                Action::None
            }
        };
        if let Action::Send(icr) = action {
            let sent = self.bus.send(cpu, icr, &());
            assert_eq!(sent.wake & sent.ipi.targets, sent.wake);
            assert_eq!(sent.wake & sent.coalesced, CpuSet::EMPTY);
        }
        if word >> 32 & 0x3f == 0 {
            self.restore(cpu);
        }
        self.check(cpu);
    }

    /// Saves an APIC, and restores that to the same one: nothing about it may change.
    fn restore(&mut self, cpu: usize) {
        let now = self.now;
        let Some(apic) = self.apics.get_mut(cpu) else {
            return;
        };
        let saved = apic.save(now);
        let state = |apic: &LocalApic| {
            // A timer that is overdue is due at the restore.
            let timer = apic.timer_deadline().map(|at| at.max(now));
            (
                apic.irr(),
                apic.isr(),
                apic.ppr(),
                apic.cr8(),
                apic.mode(),
                timer,
            )
        };
        let before = state(apic);
        assert_eq!(apic.restore(&saved, now), Ok(()), "its own state");
        assert_eq!(state(apic), before);
        assert_eq!(apic.save(now), saved);
    }

    fn check(&mut self, cpu: usize) {
        let now = self.now;
        let Some(apic) = self.apics.get_mut(cpu) else {
            return;
        };
        let work = apic.poll(now);
        assert_eq!(work, apic.poll(now));
        assert!(
            apic.irr()
                .iter()
                .chain(apic.isr().iter())
                .all(|vector| vector >= 16)
        );
        assert!(
            work.interrupt
                .is_none_or(|vector| vector & 0xf0 > apic.ppr() & 0xf0)
        );
        // An armed timer never asks to be woken at once, again and again.
        assert!(
            apic.timer_deadline()
                .is_none_or(|at| at > now || now == u64::MAX)
        );
    }
}

/// States of a few APICs that were used, as snapshots have them.
pub(crate) fn saved_states() -> Vec<Vec<u8>> {
    let mut numbers = Numbers::new(1);
    let Some(mut apics) = Apics::new() else {
        return Vec::new();
    };
    for _ in 0..10_000 {
        apics.step(numbers.next_u64(), numbers.next_u64());
    }
    let now = apics.now;
    let states = apics
        .apics
        .iter()
        .map(|apic| serde_json::to_vec(&apic.save(now)));
    states.filter_map(Result::ok).collect()
}

/// A state that a file has. The APIC takes it or not; it is one either way.
pub(crate) fn saved(bytes: &[u8]) {
    let Ok(saved) = serde_json::from_slice::<SavedApic>(bytes) else {
        return;
    };
    let mut numbers = Numbers::new(bytes.len() as u64);
    let Some(mut apics) = Apics::new() else {
        return;
    };
    let now = numbers.next_u64() >> 16;
    apics.now = now;
    for apic in &mut apics.apics {
        let before = apic.save(now);
        if apic.restore(&saved, now).is_err() {
            assert_eq!(apic.save(now), before);
        }
    }
    for _ in 0..100 {
        apics.step(numbers.next_u64(), numbers.next_u64());
    }
}

/// Accesses to APICs after reset, of 16 bytes each.
pub(crate) fn accesses(bytes: &[u8]) {
    let Some(mut apics) = Apics::new() else {
        return;
    };
    for access in bytes.as_chunks::<16>().0 {
        let both = u128::from_le_bytes(*access);
        apics.step(both as u64, (both >> 64) as u64);
    }
}

/// Streams of `total` accesses in all, of this seed; machines begin anew after each 100 000.
///
/// # Panics
/// If an invariant is not kept.
pub fn stream(total: u64, seed: u64) {
    let mut numbers = Numbers::new(seed);
    let mut left = total;
    while left > 0 {
        let Some(mut apics) = Apics::new() else {
            return;
        };
        let steps = left.min(100_000);
        for _ in 0..steps {
            apics.step(numbers.next_u64(), numbers.next_u64());
        }
        left -= steps;
    }
}
