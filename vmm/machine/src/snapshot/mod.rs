//! A machine in a file: written once its guest is ready, and gone on from by later machines.
//!
//! The file is a page of header, the state of vCPUs, APICs and devices as JSON, the mailbox, the
//! memory (stretches that are all zero are left out), and an index that says where what is, with a
//! hash of each. A file of another key, of another format, or of which a single byte is not what was
//! written is refused when it is opened; what is then mapped is the file that was looked at.

mod file;
mod host_key;
mod index;
mod key;
mod registers;
mod state;

use std::fs::File;
use std::io;

use ipirig_abi::MAILBOX_SIZE;
use vm_memory::GuestMemoryMmap;

use crate::memory::{self, MailboxMemory, MemoryError};
use index::Index;

pub(crate) use file::write;
pub use key::snapshot_key;
pub(crate) use registers::{RegisterList, has_shadow_stacks};
pub(crate) use state::{SavedMachine, SavedSerial, SavedVcpu};

/// Why a snapshot cannot be used, or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// The file cannot be read.
    #[error("cannot read the snapshot")]
    Read(#[source] io::Error),
    /// The file cannot be written.
    #[error("cannot write the snapshot")]
    Write(#[source] io::Error),
    /// It is not what was written.
    #[error("the snapshot is damaged: {0}")]
    Damaged(&'static str),
    /// It is of another format.
    #[error("the snapshot is of format {found}, and this ipirig reads format {read}")]
    Version {
        /// Its format.
        found: u8,
        /// Ours.
        read: u8,
    },
    /// It is that of another machine.
    #[error("the snapshot does not fit: {0}")]
    Misfit(&'static str),
    /// KVM does not take a register as it was.
    #[error("vCPU {cpu} does not take MSR {msr:#x} as it was, {value:#x}")]
    Msr {
        /// The vCPU.
        cpu: usize,
        /// The MSR's number.
        msr: u32,
        /// Its value in the snapshot.
        value: u64,
    },
    /// The guest's TSC would run at another rate.
    #[error("the guest's TSC ran at {saved} kHz, and this host gives it {now} kHz")]
    Tsc {
        /// Its frequency when it was saved, 0 if KVM did not say.
        saved: u32,
        /// That of a new vCPU, 0 if KVM does not say.
        now: u32,
    },
    /// The guest has more state than can be saved.
    #[error("the guest has shadow stacks (CET) on, which cannot be saved")]
    ShadowStacks,
    /// An APIC does not take its state.
    #[error("an APIC does not fit")]
    Apic(#[from] ipirig_apic::RestoreError),
    /// Its memory cannot be mapped.
    #[error("cannot map the snapshot")]
    Map(#[source] MemoryError),
}

/// A snapshot that has been looked through, and is whole.
#[derive(Debug)]
pub struct Snapshot {
    file: File,
    index: Index,
    state: Vec<u8>,
    mailbox: Vec<u8>,
}

impl Snapshot {
    /// Copies `file` and looks through all of the copy, so that nothing that happens to the file from then on can
    /// change a guest, or take memory from it that was there.
    ///
    /// # Errors
    /// It cannot be read or copied, is not whole, or not of `key`.
    pub fn open(file: &File, key: &str) -> Result<Self, SnapshotError> {
        let file = file::copy(file).map_err(SnapshotError::Read)?;
        let index = file::check(&file, key)?;
        let state = file::section(&file, &index.state)?;
        let mailbox = file::section(&file, &index.mailbox)?;
        Ok(Self {
            file,
            index,
            state,
            mailbox,
        })
    }

    /// Puts the memory of the snapshot where `ram` is, without copying it.
    pub(crate) fn map(&self, ram: &GuestMemoryMmap) -> Result<(), SnapshotError> {
        if memory::bytes(ram) != self.index.memory_bytes {
            return Err(SnapshotError::Misfit("it has another size of memory"));
        }
        for part in &self.index.memory {
            memory::overlay(ram, part.at, part.bytes, &self.file, part.offset)
                .map_err(SnapshotError::Map)?;
        }
        Ok(())
    }

    pub(crate) fn state(&self) -> Result<SavedMachine, SnapshotError> {
        serde_json::from_slice(&self.state)
            .map_err(|_| SnapshotError::Damaged("its state is no state"))
    }

    pub(crate) fn fill_mailbox(&self, mailbox: &MailboxMemory) -> Result<(), SnapshotError> {
        if self.mailbox.len() != MAILBOX_SIZE {
            return Err(SnapshotError::Misfit("it has another size of mailbox"));
        }
        mailbox.fill(&self.mailbox);
        Ok(())
    }
}
