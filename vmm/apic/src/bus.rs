//! What joins the APICs: routing and posting, without locks.

use crate::addressing::Addressing;
use crate::cpu_set::{CpuSet, MAX_CPUS};
use crate::icr::Icr;
use crate::observer::ApicObserver;
use crate::posted::{Posted, PostedInterrupts};
use crate::route::{Sent, route};
use std::sync::Arc;

/// Why a bus or an APIC could not be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// A number of CPUs that the bus cannot join.
    #[error("{cpus} CPUs asked for, the APIC bus joins 1 to {MAX_CPUS}")]
    CpuCount {
        /// The number asked for.
        cpus: usize,
    },
    /// A CPU number that is not on the bus.
    #[error("there is no CPU {cpu} on an APIC bus of {cpus}")]
    NoSuchCpu {
        /// The CPU asked for.
        cpu: usize,
        /// How many there are.
        cpus: usize,
    },
    /// A second APIC for one CPU.
    #[error("CPU {cpu} has its local APIC already")]
    Taken {
        /// The CPU.
        cpu: usize,
    },
}

/// The bus that all local APICs of a machine hang on. It can be used from any thread; nobody ever
/// waits for another.
#[derive(Debug)]
pub struct Bus {
    posted: Box<[Arc<PostedInterrupts>]>,
}

impl Bus {
    /// A bus for `cpus` CPUs, numbered from 0. A CPU's number is its APIC id, and CPU 0 is the
    /// bootstrap processor. IPIs can be sent to a CPU before its [`LocalApic`](crate::LocalApic)
    /// exists: it counts as freshly powered up.
    ///
    /// # Errors
    /// [`SetupError::CpuCount`] unless `cpus` is within 1 to [`MAX_CPUS`].
    pub fn new(cpus: usize) -> Result<Arc<Bus>, SetupError> {
        if !(1..=MAX_CPUS).contains(&cpus) {
            return Err(SetupError::CpuCount { cpus });
        }
        Ok(Arc::new(Bus {
            posted: (0..cpus)
                .map(|_| Arc::new(PostedInterrupts::new()))
                .collect(),
        }))
    }

    /// How many CPUs there are.
    #[must_use]
    pub fn cpus(&self) -> usize {
        self.posted.len()
    }

    /// Carries out one ICR write of CPU `source`, tells `observer`, and says whom to kick. To be
    /// called on the thread of `source`.
    #[must_use = "the CPUs in `wake` must be kicked"]
    pub fn send(&self, source: usize, icr: Icr, observer: &dyn ApicObserver) -> Sent {
        let mut cpus = [Addressing::POWER_UP; MAX_CPUS];
        for (cpu, posted) in cpus.iter_mut().zip(&self.posted) {
            *cpu = posted.addressing();
        }
        let ipi = route(
            source,
            icr,
            cpus.get(..self.posted.len()).unwrap_or_default(),
        );
        let mut sent = Sent {
            ipi,
            coalesced: CpuSet::EMPTY,
            wake: CpuSet::EMPTY,
        };
        for (cpu, posted) in self.posted.iter().enumerate() {
            if !ipi.targets.contains(cpu) {
                continue;
            }
            match posted.post(ipi.mode, ipi.vector) {
                Posted::New if cpu != source => sent.wake.insert(cpu),
                Posted::Coalesced => sent.coalesced.insert(cpu),
                Posted::New | Posted::Ignored => false,
            };
        }
        observer.ipi_sent(&sent);
        sent
    }

    #[cfg(test)]
    pub(crate) fn posted(&self, cpu: usize) -> Option<&PostedInterrupts> {
        self.posted.get(cpu).map(AsRef::as_ref)
    }

    pub(crate) fn claim(&self, cpu: usize) -> Result<Arc<PostedInterrupts>, SetupError> {
        let cpus = self.cpus();
        let posted = self
            .posted
            .get(cpu)
            .ok_or(SetupError::NoSuchCpu { cpu, cpus })?;
        if posted.claim() {
            Ok(Arc::clone(posted))
        } else {
            Err(SetupError::Taken { cpu })
        }
    }
}
