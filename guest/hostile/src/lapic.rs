//! Abuse of the local APIC by its MMIO page (SDM 3A, 11.4.1), which the kernel lets root map where it uses it so: with
//! `--apic xapic`.
#![expect(unsafe_code, reason = "reads and writes a device's registers")]

use std::fs::OpenOptions;
use std::ptr::NonNull;

use ipirig_system::sys;

const PAGE: u64 = 0xfee0_0000;
/// Offsets of registers: SDM 3A, table 11-1.
const EOI: usize = 0xb0;
const LDR: usize = 0xd0;
const SVR: usize = 0xf0;
const ESR: usize = 0x280;
const ICR_LOW: usize = 0x300;
const ICR_HIGH: usize = 0x310;
const LVT_TIMER: usize = 0x320;
const INITIAL_COUNT: usize = 0x380;
const DIVIDE: usize = 0x3e0;

/// Shorthands and delivery modes of the ICR: SDM 3A, figure 11-12.
const ALL_BUT_SELF: u32 = 3 << 18;
const ITSELF: u32 = 1 << 18;
const INIT: u32 = 5 << 8;
const STARTUP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;

/// The registers of the CPU that accesses them.
pub(crate) struct Registers(NonNull<u8>);

/// What is done to them.
type Abuse = fn(&Registers);

/// By what name.
const ABUSES: [(&str, Abuse); 9] = [
    ("icr-flood", |apic| {
        for _ in 0..100_000 {
            apic.send(0, ALL_BUT_SELF | ASSERT | 0xfb);
        }
    }),
    ("icr-random", |apic| {
        let mut number = 1;
        for _ in 0..10_000 {
            number = next(number);
            apic.send((number >> 32) as u32, number as u32);
        }
    }),
    ("init-storm", |apic| {
        for vector in 0..1000 {
            apic.send(0, ALL_BUT_SELF | ASSERT | INIT);
            apic.send(0, ALL_BUT_SELF | ASSERT | STARTUP | vector & 0xff);
        }
    }),
    ("self-ipis", |apic| {
        for vector in 0..=0xff {
            apic.send(0, ITSELF | ASSERT | vector);
        }
    }),
    ("apic-off", |apic| apic.write(SVR, 0xff)),
    ("apic-renamed", |apic| {
        for id in 0..=0xff {
            apic.write(LDR, id << 24);
        }
    }),
    ("timer-of-one", |apic| {
        apic.write(DIVIDE, 0b1011);
        // Periodic, by a vector that the kernel takes for its timer.
        apic.write(LVT_TIMER, 1 << 17 | 0xec);
        apic.write(INITIAL_COUNT, 1);
        for _ in 0..10_000_000 {
            std::hint::spin_loop();
        }
    }),
    ("every-register", |apic| {
        let mut number = 7;
        for _ in 0..20_000 {
            number = next(number);
            // All but INIT and what follows from it, which has its own name.
            let at = (number >> 40) as usize & 0xff0;
            if at != ICR_LOW && at != SVR {
                apic.write(at, number as u32);
            }
        }
    }),
    ("end-of-nothing", |apic| {
        for _ in 0..100_000 {
            apic.write(EOI, 0);
            apic.write(ESR, 0);
        }
    }),
];

pub(crate) fn of_name(name: &str) -> Option<Abuse> {
    ABUSES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, abuse)| *abuse)
}

/// The next of a row of numbers that looks like none: xorshift64*.
pub(crate) fn next(mut number: u64) -> u64 {
    number ^= number >> 12;
    number ^= number << 25;
    number ^= number >> 27;
    number.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1
}

impl Registers {
    pub(crate) fn map() -> Option<Self> {
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/mem")
            .ok()?;
        sys::map_shared(&memory, 0x1000, PAGE).ok().map(Self)
    }

    fn write(&self, at: usize, value: u32) {
        if at > 0xffc {
            return;
        }
        // SAFETY: the mapping has 4096 bytes and never goes away; `at` is a multiple of 16 below that.
        unsafe { self.0.as_ptr().add(at).cast::<u32>().write_volatile(value) };
    }

    fn send(&self, high: u32, low: u32) {
        self.write(ICR_HIGH, high);
        self.write(ICR_LOW, low);
    }
}
