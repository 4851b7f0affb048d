//! The part of an APIC that other CPUs may touch.

use crate::addressing::{Addressing, LogicalModel, Mode};
use crate::atomics::{AtomicBool, AtomicU32, Ordering};
use crate::icr::DeliveryMode;
use crate::vectors::SharedVectors;
use serde::{Deserialize, Serialize};

/// What became of a posted interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Posted {
    /// It is pending now.
    New,
    /// The same was pending already; the two will be delivered as one.
    Coalesced,
    /// This kind of message has no effect on the modelled CPU.
    Ignored,
}

/// Interrupts other than fixed ones that wait for the owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Events {
    pub(crate) nmi: bool,
    pub(crate) init: bool,
    pub(crate) startup: Option<u8>,
}

impl Events {
    fn pack(self) -> u32 {
        u32::from(self.nmi)
            | u32::from(self.init) << 1
            | self.startup.map_or(0, |page| 1 << 2 | u32::from(page) << 8)
    }

    fn unpack(word: u32) -> Self {
        let [flags, page, ..] = word.to_le_bytes();
        Events {
            nmi: flags & 1 != 0,
            init: flags & 1 << 1 != 0,
            startup: (flags & 1 << 2 != 0).then_some(page),
        }
    }
}

/// What others posted for one CPU to take. Aligned so that those of two CPUs do not share
/// a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct PostedInterrupts {
    /// The part of the IRR that IPIs set. The owner holds the rest: interrupts of its own sources.
    pub(crate) irr: SharedVectors,
    /// Packed [`Events`].
    events: AtomicU32,
    /// Packed [`Addressing`], written by the owner only.
    addressing: AtomicU32,
    owned: AtomicBool,
}

impl PostedInterrupts {
    pub(crate) fn new() -> Self {
        PostedInterrupts {
            irr: SharedVectors::default(),
            events: AtomicU32::new(Events::default().pack()),
            addressing: AtomicU32::new(pack(Addressing::POWER_UP)),
            owned: AtomicBool::new(false),
        }
    }

    /// Claims them for their one owner; false if somebody has them.
    pub(crate) fn claim(&self) -> bool {
        !self.owned.swap(true, Ordering::Relaxed)
    }

    pub(crate) fn post(&self, mode: DeliveryMode, vector: u8) -> Posted {
        let is_new = match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => self.irr.insert(vector),
            DeliveryMode::Nmi => !self.update(|events| events.nmi = true).nmi,
            // A start-up IPI from before the INIT found no CPU waiting for it, and is void.
            DeliveryMode::Init => {
                let before = self.update(|events| {
                    events.init = true;
                    events.startup = None;
                });
                !before.init
            }
            DeliveryMode::Startup => {
                let before = self.update(|events| {
                    events.startup.get_or_insert(vector);
                });
                before.startup.is_none()
            }
            DeliveryMode::Smi | DeliveryMode::InitDeassert | DeliveryMode::Reserved(_) => {
                return Posted::Ignored;
            }
        };
        if is_new {
            Posted::New
        } else {
            Posted::Coalesced
        }
    }

    pub(crate) fn events(&self) -> Events {
        Events::unpack(self.events.load(Ordering::Acquire))
    }

    /// Changes the events in one step and returns what they were.
    pub(crate) fn update(&self, change: impl Fn(&mut Events)) -> Events {
        let next = |word| {
            let mut events = Events::unpack(word);
            change(&mut events);
            Some(events.pack())
        };
        // The closure never declines, so both arms hold the previous value.
        let (Ok(before) | Err(before)) =
            self.events
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        Events::unpack(before)
    }

    /// Drops everything that waits.
    pub(crate) fn clear(&self) {
        self.irr.clear();
        self.update(|events| *events = Events::default());
    }

    pub(crate) fn addressing(&self) -> Addressing {
        unpack(self.addressing.load(Ordering::Acquire))
    }

    pub(crate) fn set_addressing(&self, addressing: Addressing) {
        self.addressing.store(pack(addressing), Ordering::Release);
    }
}

fn pack(addressing: Addressing) -> u32 {
    let mode = match addressing.mode {
        Mode::Disabled => 0,
        Mode::XApic => 1,
        Mode::X2Apic => 2,
    };
    let model = match addressing.model {
        LogicalModel::Flat => 0,
        LogicalModel::Cluster => 1,
        LogicalModel::Reserved => 2,
    };
    let flags = mode | model << 2 | u8::from(addressing.software_enabled) << 4;
    u32::from_le_bytes([flags, addressing.logical_id, addressing.priority, 0])
}

fn unpack(word: u32) -> Addressing {
    let [flags, logical_id, priority, _] = word.to_le_bytes();
    Addressing {
        mode: match flags & 0b11 {
            0 => Mode::Disabled,
            1 => Mode::XApic,
            _ => Mode::X2Apic,
        },
        model: match flags >> 2 & 0b11 {
            0 => LogicalModel::Flat,
            1 => LogicalModel::Cluster,
            _ => LogicalModel::Reserved,
        },
        software_enabled: flags & 1 << 4 != 0,
        logical_id,
        priority,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addressing_survives_packing() {
        for mode in [Mode::Disabled, Mode::XApic, Mode::X2Apic] {
            for model in [
                LogicalModel::Flat,
                LogicalModel::Cluster,
                LogicalModel::Reserved,
            ] {
                for software_enabled in [false, true] {
                    let addressing = Addressing {
                        mode,
                        model,
                        software_enabled,
                        logical_id: 0xa5,
                        priority: 0x5a,
                    };
                    assert_eq!(unpack(pack(addressing)), addressing);
                }
            }
        }
    }

    #[test]
    fn an_init_voids_the_startup_before_it_and_not_the_one_after() {
        let posted = PostedInterrupts::new();
        assert_eq!(posted.post(DeliveryMode::Startup, 0x10), Posted::New);
        assert_eq!(posted.post(DeliveryMode::Init, 0), Posted::New);
        assert_eq!(
            posted.events(),
            Events {
                init: true,
                ..Events::default()
            }
        );
        assert_eq!(posted.post(DeliveryMode::Startup, 0x20), Posted::New);
        assert_eq!(posted.post(DeliveryMode::Startup, 0x30), Posted::Coalesced);
        assert_eq!(
            posted.events(),
            Events {
                init: true,
                startup: Some(0x20),
                ..Events::default()
            }
        );
    }

    #[test]
    fn nobody_takes_an_smi() {
        let posted = PostedInterrupts::new();
        assert_eq!(posted.post(DeliveryMode::Smi, 0), Posted::Ignored);
        assert_eq!(posted.events(), Events::default());
    }
}
