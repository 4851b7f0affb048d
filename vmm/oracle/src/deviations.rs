//! What KVM's own APIC does otherwise than the manual, or than the rig's where the manual leaves it open, and how
//! that is kept out of comparisons: by not doing it, or by not comparing what was read.

use crate::operation::Register;

/// One thing that KVM's own APIC (arch/x86/kvm/lapic.c, as of Linux 6.12) does otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// What KVM does, and what the rig's does.
    pub what: &'static str,
    /// Where the SDM has it.
    pub section: &'static str,
    /// How it is kept out.
    pub rule: &'static str,
}

/// All that are known.
pub const DEVIATIONS: [Deviation; 18] = [
    Deviation {
        what: "KVM logs no errors: the ESR reads as zero, and no error interrupt comes; ours does both",
        section: "11.5.3",
        rule: "the ESR is written, and not compared; nothing illegal is done but by own tests",
    },
    Deviation {
        what: "KVM's version register offers the suppression of EOI broadcasts; ours has no such bit",
        section: "11.4.8",
        rule: "bit 24 of the version is not compared",
    },
    Deviation {
        what: "KVM delivers fixed IPIs and timers of the illegal vectors 0 to 15",
        section: "11.5.2",
        rule: "vectors are 0x20 and more",
    },
    Deviation {
        what: "KVM keeps the read-only status bits 12 and 14 of an LVT entry as they are written",
        section: "11.5.1",
        rule: "they are not written",
    },
    Deviation {
        what: "KVM on SVM clears the lower half of the TPR when it takes the guest's CR8 over (sync_cr8_to_lapic); ours \
               keeps it until CR8 changes",
        section: "11.8.3.1",
        rule: "the lower half is written as zero but by an own test",
    },
    Deviation {
        what: "KVM leaves IA32_TSC_DEADLINE as it is when the deadline passes while the timer is masked; ours clears it",
        section: "11.5.4.1",
        rule: "deadlines are not set while the timer is masked",
    },
    Deviation {
        what: "KVM's x2APIC takes reserved bits of registers but for the upper half; ours raises #GP",
        section: "11.12.1.3",
        rule: "they are not written",
    },
    Deviation {
        what: "KVM's xAPIC keeps reserved bits of the ICR and shows them",
        section: "11.6.1",
        rule: "they are not written",
    },
    Deviation {
        what: "KVM picks the CPU of a lowest-priority IPI by its vector; ours by priority, then by APIC id",
        section: "11.6.2.4",
        rule: "lowest-priority IPIs have one destination",
    },
    Deviation {
        what: "KVM sets the TMR's bit, or drops the IPI, when a fixed IPI asks for level triggering; processors \
               since the Pentium 4 ignore that",
        section: "11.6.1",
        rule: "fixed IPIs are edge-triggered and asserted",
    },
    Deviation {
        what: "KVM takes a CPU out of HLT for delivery mode 3, once remote read, and for start-up IPIs",
        section: "11.6.1",
        rule: "mode 3 is not sent; CPUs that wait in HLT are sent neither",
    },
    Deviation {
        what: "KVM keeps all registers when IA32_APIC_BASE disables the APIC; ours resets them, as the manual allows",
        section: "11.4.3",
        rule: "the APIC is not disabled",
    },
    Deviation {
        what: "KVM moves the page of registers anywhere, but our machine is not told where to; ours keeps it where there is no \
               RAM, and refuses all else by #GP",
        section: "11.4.5",
        rule: "the page is not moved but by an own test",
    },
    Deviation {
        what: "KVM's LVT LINT0 of the boot CPU is ExtINT and unmasked after a reset",
        section: "11.4.7.1",
        rule: "the first steps write every LVT entry",
    },
    Deviation {
        what: "KVM enters its system management mode for an SMI; our guests have none, and nothing happens",
        section: "11.6.1",
        rule: "SMIs are not sent",
    },
    Deviation {
        what: "an INIT resets the boot CPU of KVM to a firmware's vector; our machine ends, as there is no firmware",
        section: "9.4",
        rule: "no INIT is sent once the CPUs are up",
    },
    Deviation {
        what: "KVM on VMX does not renew the TPR threshold while software has the APIC disabled; once the TPR is lowered then, \
               an interrupt being pending, VM entry fails",
        section: "27.2.1.1",
        rule: "a program that ends so is compared without the steps that disable an APIC",
    },
    Deviation {
        what: "KVM's xAPIC reads undefined places of the page as they come; ours logs an illegal register",
        section: "11.4.1",
        rule: "registers are read that both have",
    },
];

/// The bits of a register that are compared.
pub(crate) const fn compared(register: Register) -> u32 {
    match register.0 {
        // ESR.
        0x28 => 0,
        // Version.
        0x03 => !(1 << 24),
        // What is left of a count depends on the time.
        0x39 => 0,
        _ => u32::MAX,
    }
}
