//! The local APIC in user space, and the routing of inter-processor interrupts.
//!
//! Each vCPU thread owns one [`LocalApic`]; all of them share one [`Bus`]. A guest's write to the
//! interrupt command register comes back as [`Action::Send`]; [`Bus::send`] then works out the
//! targets ([`route`], a pure function), posts the interrupt to them and says whom to
//! kick. The target's thread finds it with [`LocalApic::poll`] and confirms with an `accept_*` call
//! once the interrupt is really in the guest. That way every IPI passes one place where sender,
//! targets and vector are known, and an [`ApicObserver`] can count it.
//!
//! ```
//! use ipirig_apic::{Action, Bus, LocalApic, Work};
//!
//! let bus = Bus::new(2)?;
//! let mut sender = LocalApic::new(bus.clone(), 0, true)?;
//! let mut target = LocalApic::new(bus.clone(), 1, true)?;
//! // An exit: CPU 0 writes the destination, then the command, an NMI.
//! let now = 0;
//! assert_eq!(sender.mmio_write(0x310, 1 << 24, now), Action::None);
//! let Action::Send(icr) = sender.mmio_write(0x300, 0x4400, now) else { panic!() };
//! let sent = bus.send(sender.cpu(), icr, &());
//! assert!(sent.wake.contains(1)); // Kick CPU 1, so that it polls.
//! // CPU 1 waits for its start-up IPI, and holds the NMI back until then.
//! assert_eq!(target.poll(now), Work::default());
//! # Ok::<(), ipirig_apic::SetupError>(())
//! ```
//!
//! # What is modelled
//! The registers of an integrated APIC with six LVT entries, in xAPIC (MMIO) and x2APIC (MSR) mode
//! over one state; switches of mode through `IA32_APIC_BASE`; physical, logical flat, logical
//! cluster and x2APIC cluster destinations, every shorthand, broadcast and lowest priority; NMI,
//! INIT and start-up IPIs; the one-shot and periodic timer.
//!
//! # What is not
//! * The TSC and its deadline MSR: the mode is off until [`LocalApic::offer_tsc_deadline`], and the
//!   caller turns TSC values into time. Where it is not offered, hide it in CPUID.
//! * SMI: routed and counted, but nobody takes it, as these guests have no SMM.
//! * LINT0, LINT1, thermal and performance interrupts, MSIs, and with them level-triggered
//!   interrupts: nothing here raises them, so the TMR reads as zero. The LVT entries can be
//!   programmed.
//! * A register page over what may be RAM: see [`LocalApic::set_apic_base`].
//! * Bus arbitration (APR), remote reads (RRD), EOI-broadcast suppression, CMCI: absent on the
//!   modelled version, and treated as reserved registers or bits.
//!
//! # Where the other half lives
//! `ipirig-machine` has the KVM handles, threads, signals and clocks: it hands in exits and the
//! time, kicks CPUs and injects. `ipirig-evidence` keeps the ledger behind the observer.
//!
//! "SDM" is Intel's Software Developer's Manual, volume 3A; sections as in the 2023 editions, where
//! the APIC is chapter 11 (chapter 10 before).

#![forbid(unsafe_code)]
#![warn(clippy::indexing_slicing)]

mod access;
mod addressing;
mod atomics;
mod base;
mod bus;
mod cpu_set;
mod icr;
mod local;
mod observer;
mod posted;
mod registers;
mod route;
mod saved;
mod timer;
mod vectors;

pub use access::Action;
pub use addressing::{Addressing, LogicalModel, Mode};
pub use base::{APIC_BASE_ENABLE, GeneralProtection, IA32_APIC_BASE};
pub use bus::{Bus, SetupError};
pub use cpu_set::{CpuSet, MAX_CPUS};
pub use icr::{DeliveryMode, Destination, Icr, Shorthand};
pub use local::{Line, LocalApic, Work};
pub use observer::{Accepted, AcceptedKind, ApicObserver, Origin};
pub use registers::APIC_BASE_ADDRESS;
pub use route::{Ipi, Sent, route};
pub use saved::{RestoreError, SavedApic};
pub use timer::MIN_TIMER_PERIOD_NS;
pub use vectors::VectorSet;
