//! A naive model of N APICs: sets and loops, and no code shared with the crate.

use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Face {
    Off,
    #[default]
    XApic,
    X2Apic,
}

/// An ICR write, field by field.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message {
    pub(crate) vector: u8,
    /// 0 to 7, as encoded.
    pub(crate) mode: u8,
    pub(crate) logical: bool,
    pub(crate) assert: bool,
    pub(crate) level: bool,
    /// 0 to 3, as encoded.
    pub(crate) shorthand: u8,
    pub(crate) destination: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) targeted: usize,
    pub(crate) coalesced: usize,
    pub(crate) by_ipi: usize,
    pub(crate) by_timer: usize,
    pub(crate) by_error: usize,
    pub(crate) merged: usize,
    pub(crate) nmis: usize,
    pub(crate) inits: usize,
    pub(crate) startups: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) init: bool,
    pub(crate) startup: Option<u8>,
    pub(crate) nmi: bool,
    pub(crate) interrupt: Option<u8>,
}

#[derive(Clone, Debug, Default)]
struct Timer {
    next: Option<u64>,
    period: u64,
    periodic: bool,
    /// None while masked.
    vector: Option<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    number: usize,
    pub(crate) face: Face,
    enabled: bool,
    tpr: u8,
    ldr: u8,
    /// The top four bits of the DFR.
    dfr: u8,
    pub(crate) isr: BTreeSet<u8>,
    ipis: BTreeSet<u8>,
    timer_irqs: BTreeSet<u8>,
    error_irqs: BTreeSet<u8>,
    errors: BTreeSet<u8>,
    error_vector: Option<u8>,
    timer: Timer,
    nmi: bool,
    init: bool,
    startup: Option<u8>,
    pub(crate) parked: bool,
    pub(crate) counts: Counts,
}

impl Cpu {
    fn fresh(number: usize) -> Self {
        Cpu {
            number,
            face: Face::XApic,
            enabled: false,
            tpr: 0,
            ldr: 0,
            dfr: 15,
            isr: BTreeSet::new(),
            ipis: BTreeSet::new(),
            timer_irqs: BTreeSet::new(),
            error_irqs: BTreeSet::new(),
            errors: BTreeSet::new(),
            error_vector: None,
            timer: Timer::default(),
            nmi: false,
            init: false,
            startup: None,
            parked: false,
            counts: Counts::default(),
        }
    }

    pub(crate) fn irr(&self) -> BTreeSet<u8> {
        self.ipis
            .iter()
            .chain(&self.timer_irqs)
            .chain(&self.error_irqs)
            .copied()
            .collect()
    }

    pub(crate) fn ppr(&self) -> u8 {
        let class = self.isr.last().map_or(0, |vector| vector / 16);
        if self.tpr / 16 >= class {
            self.tpr
        } else {
            class * 16
        }
    }

    pub(crate) fn timer_wakes_at(&self) -> Option<u64> {
        self.timer.vector.and(self.timer.next)
    }

    pub(crate) fn waiting(&self) -> Waiting {
        let nothing = Waiting::default();
        if self.face == Face::Off {
            nothing
        } else if self.init {
            Waiting {
                init: true,
                ..nothing
            }
        } else if self.parked {
            Waiting {
                startup: self.startup,
                ..nothing
            }
        } else {
            let highest = self.irr().last().copied();
            let interrupt = highest.filter(|vector| vector / 16 > self.ppr() / 16);
            Waiting {
                nmi: self.nmi,
                interrupt,
                ..nothing
            }
        }
    }

    fn error(&mut self, bit: u8) {
        let first = self.errors.is_empty();
        self.errors.insert(bit);
        match self.error_vector {
            Some(vector) if first && vector >= 16 => {
                self.error_irqs.insert(vector);
            }
            Some(_) if first => {
                self.errors.insert(6);
            }
            _ => {}
        }
    }

    fn takes(&self, mode: u8) -> bool {
        self.face != Face::Off && (self.enabled || mode > 1)
    }

    fn hears(&self, source: usize, wide: bool, message: &Message) -> bool {
        match message.shorthand {
            1 => return self.number == source,
            2 => return true,
            3 => return self.number != source,
            _ => {}
        }
        let destination = if wide {
            message.destination
        } else {
            message.destination % 256
        };
        if destination == if wide { u32::MAX } else { 255 } {
            return true;
        }
        if !message.logical {
            return destination == self.number as u32;
        }
        let shares_bit = |own: u32, bits: u32| {
            (0..bits).any(|bit| own >> bit & 1 == 1 && destination >> bit & 1 == 1)
        };
        let ldr = u32::from(self.ldr);
        match (self.face, self.dfr) {
            (Face::X2Apic, _) => {
                destination / 65_536 == self.number as u32 / 16
                    && shares_bit(1 << (self.number % 16), 16)
            }
            (Face::XApic, 15) => destination < 256 && shares_bit(ldr, 8),
            (Face::XApic, 0) => destination / 16 == ldr / 16 && shares_bit(ldr, 4),
            _ => false,
        }
    }

    /// Takes one message and says whether it merged with one that was there.
    fn hear(&mut self, message: &Message) -> bool {
        match message.mode {
            0 | 1 => !self.ipis.insert(message.vector),
            4 => std::mem::replace(&mut self.nmi, true),
            5 => {
                self.startup = None;
                std::mem::replace(&mut self.init, true)
            }
            6 if self.startup.is_some() => true,
            6 => {
                self.startup = Some(message.vector);
                false
            }
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) cpus: Vec<Cpu>,
    pub(crate) undeliverable: usize,
    now: u64,
}

impl Model {
    /// CPUs that run in xAPIC mode, enabled, with the flat logical id that their number gives.
    pub(crate) fn running(cpus: usize) -> Self {
        let cpu = |number| Cpu {
            enabled: true,
            ldr: if number < 8 { 1u8 << number } else { 0 },
            ..Cpu::fresh(number)
        };
        Model {
            cpus: (0..cpus).map(cpu).collect(),
            undeliverable: 0,
            now: 0,
        }
    }

    pub(crate) fn send(&mut self, source: usize, message: &Message) {
        let wide = self.cpus[source].face == Face::X2Apic;
        if message.mode < 2 && message.vector < 16 {
            self.cpus[source].error(5);
            self.undeliverable += 1;
            return;
        }
        if message.mode == 5 && message.level && !message.assert {
            return;
        }
        if message.mode == 3 || message.mode == 7 {
            self.undeliverable += 1;
            return;
        }
        let mut targets: Vec<usize> = Vec::new();
        for cpu in &self.cpus {
            if cpu.takes(message.mode) && cpu.hears(source, wide, message) {
                targets.push(cpu.number);
            }
        }
        if message.mode == 1 {
            let mut chosen: Option<usize> = None;
            for number in targets {
                if chosen.is_none_or(|best| self.cpus[number].ppr() < self.cpus[best].ppr()) {
                    chosen = Some(number);
                }
            }
            targets = chosen.into_iter().collect();
        }
        if targets.is_empty() {
            self.undeliverable += 1;
        }
        for number in targets {
            let cpu = &mut self.cpus[number];
            cpu.counts.targeted += 1;
            if cpu.hear(message) {
                cpu.counts.coalesced += 1;
            }
        }
    }

    pub(crate) fn self_ipi(&mut self, cpu: usize, vector: u8) {
        if vector < 16 {
            self.cpus[cpu].error(6);
            self.undeliverable += 1;
            return;
        }
        let message = Message {
            vector,
            mode: 0,
            logical: false,
            assert: true,
            level: false,
            shorthand: 1,
            destination: 0,
        };
        self.send(cpu, &message);
    }

    /// Takes what waits, all at once but for INIT and start-up.
    pub(crate) fn accept(&mut self, cpu: usize) {
        let cpu = &mut self.cpus[cpu];
        let waiting = cpu.waiting();
        if waiting.init {
            let counts = Counts {
                inits: cpu.counts.inits + 1,
                ..cpu.counts
            };
            let (face, startup, parked) = (cpu.face, cpu.startup, cpu.number != 0);
            *cpu = Cpu {
                face,
                startup,
                parked,
                counts,
                ..Cpu::fresh(cpu.number)
            };
        }
        if waiting.startup.is_some() {
            (cpu.startup, cpu.parked) = (None, false);
            cpu.counts.startups += 1;
        }
        if waiting.nmi {
            cpu.nmi = false;
            cpu.counts.nmis += 1;
        }
        if let Some(vector) = waiting.interrupt {
            let by = [
                cpu.ipis.remove(&vector),
                cpu.timer_irqs.remove(&vector),
                cpu.error_irqs.remove(&vector),
            ];
            match by {
                [true, ..] => cpu.counts.by_ipi += 1,
                [_, true, _] => cpu.counts.by_timer += 1,
                _ => cpu.counts.by_error += 1,
            }
            if by.iter().filter(|was| **was).count() > 1 {
                cpu.counts.merged += 1;
            }
            cpu.isr.insert(vector);
        }
    }

    pub(crate) fn end_of_interrupt(&mut self, cpu: usize) -> Option<u8> {
        self.cpus[cpu].isr.pop_last()
    }

    pub(crate) fn set_tpr(&mut self, cpu: usize, tpr: u8) {
        self.cpus[cpu].tpr = tpr;
    }

    pub(crate) fn set_cr8(&mut self, cpu: usize, cr8: u8) {
        let cpu = &mut self.cpus[cpu];
        if cpu.tpr / 16 != cr8 {
            cpu.tpr = cr8 * 16;
        }
    }

    pub(crate) fn set_ldr(&mut self, cpu: usize, ldr: u8) {
        self.cpus[cpu].ldr = ldr;
    }

    pub(crate) fn set_dfr(&mut self, cpu: usize, dfr: u8) {
        self.cpus[cpu].dfr = dfr;
    }

    pub(crate) fn set_enabled(&mut self, cpu: usize, enabled: bool) {
        let cpu = &mut self.cpus[cpu];
        cpu.enabled = enabled;
        if !enabled {
            (cpu.timer.vector, cpu.error_vector) = (None, None);
        }
    }

    pub(crate) fn set_error_vector(&mut self, cpu: usize, vector: Option<u8>) {
        let cpu = &mut self.cpus[cpu];
        cpu.error_vector = vector.filter(|_| cpu.enabled);
    }

    pub(crate) fn illegal_register(&mut self, cpu: usize) {
        self.cpus[cpu].error(7);
    }

    /// Writes and reads the ESR.
    pub(crate) fn take_errors(&mut self, cpu: usize) -> u32 {
        std::mem::take(&mut self.cpus[cpu].errors)
            .iter()
            .map(|bit| 1 << bit)
            .sum()
    }

    /// Writes the timer's LVT, divisor and initial count.
    pub(crate) fn set_timer(
        &mut self,
        cpu: usize,
        vector: Option<u8>,
        periodic: bool,
        divisor: u64,
        count: u32,
    ) {
        let (cpu, now) = (&mut self.cpus[cpu], self.now);
        let asked = u64::from(count) * divisor;
        let period = if asked < 200_000 { 200_000 } else { asked };
        let first = if periodic { period } else { asked };
        let next = if count == 0 { None } else { Some(now + first) };
        cpu.timer = Timer {
            next,
            period,
            periodic,
            vector: vector.filter(|_| cpu.enabled),
        };
    }

    pub(crate) fn advance(&mut self, ns: u64) {
        self.now += ns;
        for cpu in &mut self.cpus {
            while let Some(expiry) = cpu.timer.next.filter(|next| *next <= self.now) {
                match cpu.timer.vector {
                    Some(vector) if vector >= 16 => {
                        cpu.timer_irqs.insert(vector);
                    }
                    Some(_) => cpu.error(6),
                    None => {}
                }
                cpu.timer.next = cpu.timer.periodic.then_some(expiry + cpu.timer.period);
            }
        }
    }

    /// Switches the mode and says whether that was allowed.
    pub(crate) fn set_face(&mut self, cpu: usize, to: Face) -> bool {
        let cpu = &mut self.cpus[cpu];
        match (cpu.face, to) {
            (Face::Off, Face::X2Apic) | (Face::X2Apic, Face::XApic) => return false,
            (_, Face::Off) => {
                let (counts, parked) = (cpu.counts, cpu.parked);
                *cpu = Cpu {
                    face: to,
                    counts,
                    parked,
                    ..Cpu::fresh(cpu.number)
                };
            }
            _ => cpu.face = to,
        }
        true
    }

    /// What looking at the APICs does: start-ups for CPUs that do not wait are forgotten.
    pub(crate) fn look(&mut self) {
        for cpu in &mut self.cpus {
            if !cpu.parked && !cpu.init {
                cpu.startup = None;
            }
        }
    }
}
