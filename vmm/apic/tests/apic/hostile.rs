//! Whatever a guest writes, the APIC neither panics nor leaves its invariants.

use ipirig_apic::{Action, Bus, LocalApic};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Access {
    MmioRead(u16),
    MmioWrite(u16, u32),
    MsrRead(u32),
    MsrWrite(u32, u64),
    Base(u64),
    Cr8(u8),
    TscDeadline(u64, u64),
    Accept,
    AcceptAnything(u8),
}

/// Anything, but mostly where registers are.
fn access() -> impl Strategy<Value = Access> {
    let offset = prop_oneof![4 => (0u16..0x40).prop_map(|n| n << 4), 1 => any::<u16>()];
    let msr = prop_oneof![4 => 0x800u32..0x840, 1 => any::<u32>()];
    let base = prop_oneof![
        4 => (0u64..4).prop_map(|mode| 0xfee0_0000 | mode << 10),
        1 => any::<u64>()
    ];
    // Mostly few bits, so that x2APIC writes are not all refused.
    let value = prop_oneof![any::<u32>(), any::<u8>().prop_map(u32::from), Just(0x1ff)];
    prop_oneof![
        2 => offset.clone().prop_map(Access::MmioRead),
        8 => (offset, value.clone()).prop_map(|(at, value)| Access::MmioWrite(at, value)),
        2 => msr.clone().prop_map(Access::MsrRead),
        8 => (msr, value, prop_oneof![3 => Just(0u32), 1 => any::<u32>()])
            .prop_map(|(at, low, high)| Access::MsrWrite(at, u64::from(high) << 32 | u64::from(low))),
        2 => base.prop_map(Access::Base),
        1 => any::<u8>().prop_map(Access::Cr8),
        1 => any::<(u64, u64)>().prop_map(|(value, at)| Access::TscDeadline(value, at)),
        4 => Just(Access::Accept),
        1 => any::<u8>().prop_map(Access::AcceptAnything),
    ]
}

proptest! {
    #[test]
    fn no_stream_of_accesses_panics(
        cpus in 1usize..=64,
        stream in prop::collection::vec((any::<u8>(), access(), any::<u64>()), 0..200),
    ) {
        let bus = Bus::new(cpus).unwrap();
        let mut apics: Vec<LocalApic> =
            (0..cpus).map(|cpu| LocalApic::new(Arc::clone(&bus), cpu, true).unwrap()).collect();
        for (cpu, access, now) in stream {
            let cpu = usize::from(cpu) % cpus;
            let apic = &mut apics[cpu];
            let action = match access {
                Access::MmioRead(offset) => {
                    apic.mmio_read(offset, now);
                    Action::None
                }
                Access::MmioWrite(offset, value) => apic.mmio_write(offset, value, now),
                Access::MsrRead(msr) => {
                    let _ = apic.msr_read(msr, now);
                    Action::None
                }
                Access::MsrWrite(msr, value) => {
                    apic.msr_write(msr, value, now).unwrap_or(Action::None)
                }
                Access::Base(value) => {
                    let _ = apic.set_apic_base(value);
                    Action::None
                }
                Access::Cr8(cr8) => {
                    apic.set_cr8(cr8);
                    Action::None
                }
                Access::TscDeadline(value, at) => {
                    apic.offer_tsc_deadline();
                    apic.set_tsc_deadline(value, at, now);
                    Action::None
                }
                Access::Accept => {
                    let work = apic.poll(now);
                    apic.accept_init(&());
                    apic.accept_startup(&());
                    apic.accept_nmi(&());
                    work.interrupt.into_iter().for_each(|vector| apic.accept_interrupt(vector, &()));
                    Action::None
                }
                Access::AcceptAnything(vector) => {
                    apic.accept_interrupt(vector, &());
                    Action::None
                }
            };
            if let Action::Send(icr) = action {
                let sent = bus.send(cpu, icr, &());
                prop_assert_eq!(sent.wake & sent.ipi.targets, sent.wake);
                prop_assert_eq!(sent.wake & sent.coalesced, ipirig_apic::CpuSet::EMPTY);
            }
            let apic = &mut apics[cpu];
            let work = apic.poll(now);
            prop_assert_eq!(work, apic.poll(now));
            prop_assert!(apic.irr().iter().chain(apic.isr().iter()).all(|vector| vector >= 16));
            prop_assert!(work.interrupt.is_none_or(|vector| vector & 0xf0 > apic.ppr() & 0xf0));
            // An armed timer never asks to be woken at once, again and again.
            prop_assert!(apic.timer_deadline().is_none_or(|at| at > now || now == u64::MAX));
        }
    }
}
