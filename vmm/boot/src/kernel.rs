//! A kernel file: what it is, whether it is whole, whether it fits, and getting it into memory.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use linux_loader::loader::{self, KernelLoader};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::image::{FirstBytes, Image, KernelFault, KernelFormat};
use super::{bzimage, elf, layout};

/// An open kernel file whose headers are in order.
#[derive(Debug)]
pub(crate) struct Kernel {
    file: File,
    pub(crate) image: Image,
}

/// Enough of a file's beginning to tell what it is, and to hold a bzImage's setup header.
pub(crate) const HEAD_LEN: u64 = 1024;

impl Kernel {
    pub(crate) fn open(path: &Path) -> Result<Self, KernelFault> {
        // First: opening a pipe would wait for a writer.
        let metadata = path.metadata().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => KernelFault::Missing,
            _ => KernelFault::Open(error),
        })?;
        if metadata.is_dir() {
            return Err(KernelFault::Directory);
        }
        if !metadata.is_file() {
            return Err(KernelFault::NotAFile);
        }
        let file = File::open(path).map_err(KernelFault::Open)?;
        let len = file.metadata().map_err(KernelFault::Read)?.len();
        if len == 0 {
            return Err(KernelFault::Empty);
        }
        let mut head = Vec::new();
        (&file)
            .take(HEAD_LEN)
            .read_to_end(&mut head)
            .map_err(KernelFault::Read)?;
        let image = if elf::is_elf(&head) {
            elf::inspect(&file, &head, len)?
        } else if bzimage::is_bzimage(&head) {
            bzimage::inspect(&head, len)?
        } else {
            return Err(KernelFault::UnknownFormat(FirstBytes::new(&head)));
        };
        if image.memory.start < layout::HIGH_MEMORY {
            return Err(KernelFault::LoadsTooLow {
                address: image.memory.start,
            });
        }
        Ok(Self { file, image })
    }

    pub(crate) fn check_fit(&self, ram_end: u64) -> Result<(), KernelFault> {
        let end = self.image.memory.end;
        let needs_mib = end.div_ceil(layout::MIB);
        if end > layout::IDENTITY_MAP_END {
            Err(KernelFault::LoadsTooHigh { needs_mib })
        } else if end > ram_end {
            Err(KernelFault::TooBig {
                needs_mib,
                has_mib: ram_end / layout::MIB,
            })
        } else {
            Ok(())
        }
    }

    /// Reads the kernel into `memory`. The caller has checked that it fits.
    pub(crate) fn load(&mut self, memory: &GuestMemoryMmap) -> Result<(), KernelFault> {
        let lowest = Some(GuestAddress(layout::HIGH_MEMORY));
        match self.image.format {
            KernelFormat::Elf => loader::Elf::load(memory, None, &mut self.file, lowest),
            KernelFormat::BzImage => {
                let start = GuestAddress(self.image.memory.start);
                // `lowest` would be held against code32_start, which a 64-bit entry does not use.
                loader::BzImage::load(memory, Some(start), &mut self.file, None)
            }
        }
        .map_err(KernelFault::Load)?;
        Ok(())
    }
}
