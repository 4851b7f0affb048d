//! What of a machine is neither its memory nor its mailbox.

use ipirig_apic::SavedApic;
use kvm_bindings::{
    kvm_clock_data, kvm_debugregs, kvm_msr_entry, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs,
};
use serde::{Deserialize, Serialize};
use vm_superio::serial::SerialState;

#[derive(Deserialize, Serialize)]
pub(crate) struct SavedMachine {
    pub(crate) vcpus: Vec<SavedVcpu>,
    /// kvmclock, in nanoseconds.
    pub(crate) clock: u64,
    pub(crate) serial: SavedSerial,
    /// What was said on the console, as far as it is kept.
    pub(crate) console: Vec<String>,
}

impl SavedMachine {
    /// For `KVM_SET_CLOCK`. Without flags: the guest's time continues from where it was, as if
    /// nothing had been between (KVM API 4.30).
    pub(crate) fn clock(&self) -> kvm_clock_data {
        kvm_clock_data {
            clock: self.clock,
            ..kvm_clock_data::default()
        }
    }
}

/// One vCPU, with all exits completed.
#[derive(Clone, Deserialize, Serialize)]
pub(crate) struct SavedVcpu {
    pub(crate) regs: kvm_regs,
    pub(crate) sregs: kvm_sregs,
    pub(crate) debug_regs: kvm_debugregs,
    pub(crate) xcrs: kvm_xcrs,
    /// The XSAVE area, by words: 4 KiB, or as much as KVM says.
    pub(crate) xsave: Vec<u32>,
    pub(crate) msrs: Vec<kvm_msr_entry>,
    /// The frequency of its TSC in kHz, 0 if KVM does not say.
    pub(crate) tsc_khz: u32,
    pub(crate) events: kvm_vcpu_events,
    pub(crate) apic: SavedApic,
    /// It is in HLT.
    pub(crate) halted: bool,
    /// `kvm_run.if_flag` and `kvm_run.ready_for_interrupt_injection`, as the last exit left them.
    pub(crate) if_flag: u8,
    pub(crate) ready: u8,
}

/// The serial port's registers. It receives nothing.
#[derive(Deserialize, Serialize)]
#[serde(remote = "SerialState")]
struct SerialRegisters {
    baud_divisor_low: u8,
    baud_divisor_high: u8,
    interrupt_enable: u8,
    interrupt_identification: u8,
    line_control: u8,
    line_status: u8,
    modem_control: u8,
    modem_status: u8,
    scratch: u8,
    in_buffer: Vec<u8>,
}

#[derive(Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct SavedSerial(#[serde(with = "SerialRegisters")] pub(crate) SerialState);
