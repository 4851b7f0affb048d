//! Guest memory: the RAM, and the mailbox's slot beside it.
#![expect(
    unsafe_code,
    reason = "handing memory to KVM, and looking at the mailbox as its type"
)]

use ipirig_abi::{MAILBOX_GPA, MAILBOX_SIZE, Mailbox};
use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion,
};
use vmm_sys_util::errno;

/// Why guest memory could not be set up.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error("cannot map {bytes} bytes for the guest; ask for less with --memory")]
    Map {
        /// How much was asked for.
        bytes: u64,
        /// Why not.
        #[source]
        source: vm_memory::mmap::FromRangesError,
    },
    /// The mailbox could not be mapped.
    #[error("cannot map the mailbox")]
    Mailbox(#[source] vm_memory::mmap::MmapRegionError),
    /// KVM refused the slot.
    #[error("KVM refused the memory slot at {at:#x}")]
    Slot {
        /// Guest-physical start.
        at: u64,
        /// Why not.
        #[source]
        source: errno::Error,
    },
}

/// `bytes` of RAM from guest-physical 0.
pub(crate) fn ram(bytes: u64) -> Result<GuestMemoryMmap, MemoryError> {
    let size = usize::try_from(bytes).unwrap_or(usize::MAX);
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), size)])
        .map_err(|source| MemoryError::Map { bytes, source })
}

/// Gives all of `memory` to the VM, in slots from `slot` on. `memory` must outlive the VM's vCPUs.
pub(crate) fn map(vm: &VmFd, slot: u32, memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    for (slot, region) in (slot..).zip(memory.iter()) {
        let at = region.start_addr().raw_value();
        let host = region.as_ptr();
        set_slot(vm, slot, at, region.len(), host)?;
    }
    Ok(())
}

fn set_slot(vm: &VmFd, slot: u32, at: u64, bytes: u64, host: *mut u8) -> Result<(), MemoryError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags: 0,
        guest_phys_addr: at,
        memory_size: bytes,
        userspace_addr: host as u64,
    };
    // SAFETY: the range is a live mapping that its owner keeps until after the VM is closed (see
    // the callers' field order), and slots do not overlap.
    unsafe { vm.set_user_memory_region(region) }.map_err(|source| MemoryError::Slot { at, source })
}

/// The mailbox's memory.
#[derive(Debug)]
pub(crate) struct MailboxMemory {
    region: MmapRegion,
}

impl MailboxMemory {
    pub(crate) fn new() -> Result<Self, MemoryError> {
        Ok(Self {
            region: MmapRegion::new(MAILBOX_SIZE).map_err(MemoryError::Mailbox)?,
        })
    }

    /// Gives the mailbox to the VM as slot `slot`.
    pub(crate) fn map(&self, vm: &VmFd, slot: u32) -> Result<(), MemoryError> {
        set_slot(
            vm,
            slot,
            MAILBOX_GPA,
            MAILBOX_SIZE as u64,
            self.region.as_ptr(),
        )
    }

    /// The mailbox. The guest may write to any of it at any time.
    pub(crate) fn mailbox(&self) -> &Mailbox {
        let start = self.region.as_ptr().cast_const().cast::<Mailbox>();
        // SAFETY: the region is page aligned, at least as large as a `Mailbox` (asserted in
        // ipirig-abi) and lives as long as `self`. A `Mailbox` is nothing but atomics, for which
        // every bit pattern is valid and concurrent writes, by this process or by the guest, are
        // defined.
        unsafe { &*start }
    }
}
