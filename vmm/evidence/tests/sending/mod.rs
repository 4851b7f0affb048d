//! The way of an IPI without KVM, and an allocator that counts. For a test and a bench.
#![expect(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use ipirig_apic::{Accepted, Action, ApicObserver, Bus, LocalApic, Sent};
use ipirig_machine::{IpiEvent, Observer, clock};

use ipirig_evidence::ledger::Ledger;

/// Counts what is asked of the system's allocator.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: the system's allocator does all the work; counting touches no memory of its.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        BYTES.fetch_add(layout.size() as u64, Relaxed);
        // SAFETY: the caller's promises are passed on as they are.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often memory was asked for by `job`, and how many bytes.
pub(crate) fn allocations<T>(job: impl FnOnce() -> T) -> (T, u64, u64) {
    let before = (ALLOCATIONS.load(Relaxed), BYTES.load(Relaxed));
    let done = job();
    (
        done,
        ALLOCATIONS.load(Relaxed) - before.0,
        BYTES.load(Relaxed) - before.1,
    )
}

/// Passes sends on to a ledger, as a vCPU does.
#[derive(Debug)]
struct Listening<'a>(&'a Ledger);

impl ApicObserver for Listening<'_> {
    fn ipi_sent(&self, sent: &Sent) {
        self.0.ipi(&IpiEvent {
            time_ns: clock::now(),
            sent: *sent,
            rip: 0,
        });
    }

    fn interrupt_accepted(&self, _: usize, _: Accepted) {}
}

/// The ICR (x2APIC): vector 0xfb to all but self, or to CPU 1.
pub(crate) const ALL_BUT_SELF: u64 = 0xc_40fb;
pub(crate) const TO_ONE: u64 = 1 << 32 | 0x40fb;

/// APICs that are on, in x2APIC mode.
pub(crate) fn apics(cpus: usize) -> (Arc<Bus>, Vec<LocalApic>) {
    let bus = Bus::new(cpus).unwrap();
    let mut apics: Vec<LocalApic> = (0..cpus)
        .map(|cpu| LocalApic::new(Arc::clone(&bus), cpu, true).unwrap())
        .collect();
    for apic in &mut apics {
        let base = apic.apic_base();
        apic.set_apic_base(base | 1 << 10).unwrap();
        assert_eq!(apic.msr_write(0x80f, 0x1ff, 0), Ok(Action::None));
    }
    (bus, apics)
}

/// CPU 0 writes its ICR `count` times.
pub(crate) fn send(
    bus: &Bus,
    apics: &mut [LocalApic],
    icr: u64,
    count: usize,
    ledger: Option<&Ledger>,
) {
    let listening = ledger.map(Listening);
    let observer: &dyn ApicObserver = match &listening {
        Some(listening) => listening,
        None => &(),
    };
    let sender = apics.first_mut().unwrap();
    for _ in 0..count {
        let Ok(Action::Send(icr)) = sender.msr_write(0x830, black_box(icr), 0) else {
            panic!("no IPI");
        };
        let _ = black_box(bus.send(0, icr, observer));
    }
}
