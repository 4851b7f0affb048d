//! Guest memory: the RAM, and the mailbox's slot beside it.
#![expect(
    unsafe_code,
    reason = "handing memory to KVM, and looking at the mailbox as its type"
)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use ipirig_abi::{MAILBOX_GPA, MAILBOX_SIZE, Mailbox};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use thiserror::Error;
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion,
    VolatileMemory,
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
    /// A part of a snapshot could not be mapped.
    #[error("cannot map what is at {at:#x}")]
    Overlay {
        /// Guest-physical address.
        at: u64,
        /// Why not.
        #[source]
        source: io::Error,
    },
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

/// How much RAM there is.
pub(crate) fn bytes(memory: &GuestMemoryMmap) -> u64 {
    memory.iter().map(GuestMemoryRegion::len).sum()
}

/// Puts `bytes` of `file` from `offset` on, which must be multiples of a page, into guest memory at
/// `at`. Nothing is copied until it is written to, and nothing is ever written to the file.
pub(crate) fn overlay(
    memory: &GuestMemoryMmap,
    at: u64,
    bytes: u64,
    file: &File,
    offset: u64,
) -> Result<(), MemoryError> {
    let refused = |source| MemoryError::Overlay { at, source };
    let length = usize::try_from(bytes).unwrap_or(usize::MAX);
    let slice = memory
        .get_slice(GuestAddress(at), length)
        .map_err(|error| refused(io::Error::other(error)))?;
    let offset = libc::off_t::try_from(offset).map_err(|e| refused(io::Error::other(e)))?;
    // SAFETY: the range lies within one mapping that `memory` owns, as `get_slice` found, and which it
    // unmaps as a whole, whatever is mapped there by then. No reference into it exists: guest memory
    // is only ever reached through `memory`, whose accesses are volatile. The new mapping is as
    // readable and writable as the old. The file is never cut short: it is a copy in memory that is
    // sealed against that.
    let mapped = unsafe {
        libc::mmap(
            slice.ptr_guard_mut().as_ptr().cast(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if mapped == libc::MAP_FAILED {
        return Err(refused(io::Error::last_os_error()));
    }
    Ok(())
}

/// Gives all of `memory` to the VM, in slots from `slot` on. `memory` must outlive the VM's vCPUs.
pub(crate) fn map(vm: &VmFd, slot: u32, memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    map_with(vm, slot, memory, 0)
}

/// Has KVM log which pages of `memory`, mapped from `slot` on, are written to (KVM API 4.35).
pub(crate) fn log(vm: &VmFd, slot: u32, memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    map_with(vm, slot, memory, KVM_MEM_LOG_DIRTY_PAGES)
}

fn map_with(vm: &VmFd, slot: u32, memory: &GuestMemoryMmap, flags: u32) -> Result<(), MemoryError> {
    for (slot, region) in (slot..).zip(memory.iter()) {
        let at = region.start_addr().raw_value();
        let host = region.as_ptr();
        set_slot(vm, (slot, flags), at, region.len(), host)?;
    }
    Ok(())
}

fn set_slot(
    vm: &VmFd,
    (slot, flags): (u32, u32),
    at: u64,
    bytes: u64,
    host: *mut u8,
) -> Result<(), MemoryError> {
    let region = kvm_userspace_memory_region {
        slot,
        flags,
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
            (slot, 0),
            MAILBOX_GPA,
            MAILBOX_SIZE as u64,
            self.region.as_ptr(),
        )
    }

    /// All of it, for a snapshot. The guest must be still.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; MAILBOX_SIZE];
        self.region.as_volatile_slice().copy_to(&mut bytes);
        bytes
    }

    /// Takes over all of it, from a snapshot.
    pub(crate) fn fill(&self, bytes: &[u8]) {
        self.region.as_volatile_slice().copy_from(bytes);
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
