//! The files of a guest's kernel and modules, as far as its stacks need them.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use cpio::NewcReader;
use ipirig_blame::{Frames, Kernel, Memory};
use ipirig_entry::slide;
use ipirig_image::{Image, ModuleFile, OrcTable, Symbols};

use super::modules;

/// Most bytes of an initramfs that are searched for modules.
const INITRAMFS: u64 = 256 << 20;
/// Most bytes of a module, and most modules.
const MODULE: u64 = 64 << 20;
const MODULES: usize = 256;

/// The code that a guest boots.
#[derive(Debug)]
pub struct Code {
    symbols: Symbols,
    frames: Frames,
    modules: Vec<ModuleFile>,
    file: Option<PathBuf>,
}

impl Code {
    /// Reads a kernel and the modules of an initramfs. Of what cannot be read nothing is known, and
    /// chains say so.
    #[must_use]
    pub fn read(kernel: &Path, initramfs: &Path) -> Self {
        let modules = modules_in(initramfs).unwrap_or_default();
        let unknown = |why: String| Self {
            symbols: Symbols::default(),
            frames: Frames::Unknown(why),
            modules: Vec::new(),
            file: None,
        };
        let image = match Image::open(kernel) {
            Ok(image) => image,
            Err(error) => return unknown(crate::chain(&error)),
        };
        let frames = match OrcTable::read(&image) {
            Ok(Some(table)) => Frames::Orc(table),
            Ok(None) => Frames::Pointers,
            Err(error) => Frames::Unknown(crate::chain(&error)),
        };
        Self {
            symbols: image.into_symbols(),
            frames,
            modules,
            file: Some(kernel.to_path_buf()),
        }
    }

    #[cfg(test)]
    pub(crate) fn of(symbols: Symbols, frames: Frames) -> Self {
        Self {
            symbols,
            frames,
            modules: Vec::new(),
            file: None,
        }
    }

    /// The kernel's file, if it could be read.
    pub(super) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// What KASLR adds to each address of the kernel, whose SYSCALL goes to `lstar`. If that cannot
    /// be this kernel, nothing is known of it from here on.
    pub(super) fn slide(&mut self, lstar: u64) -> u64 {
        slide(&self.symbols, lstar).unwrap_or_else(|error| {
            if !matches!(self.frames, Frames::Unknown(_)) {
                self.frames = Frames::Unknown(error.to_string());
            }
            self.symbols = Symbols::default();
            0
        })
    }

    /// The kernel that runs, with the modules that it has loaded as `memory` shows.
    pub(super) fn kernel(self, slide: u64, memory: &dyn Memory) -> Kernel {
        let list = self.symbols.address("modules");
        let loaded =
            list.map(|list| modules::loaded(list.wrapping_add(slide), &self.modules, memory));
        Kernel::new(self.symbols, self.frames, slide, loaded.unwrap_or_default())
    }
}

/// The modules in an uncompressed initramfs; those that cannot be read are left out.
fn modules_in(initramfs: &Path) -> Result<Vec<ModuleFile>, Box<dyn Error>> {
    let mut archive: Box<dyn Read> = Box::new(File::open(initramfs)?.take(INITRAMFS));
    let mut modules = Vec::new();
    loop {
        let mut entry = NewcReader::new(archive)?;
        if entry.entry().is_trailer() || modules.len() >= MODULES {
            return Ok(modules);
        }
        if entry.entry().name().ends_with(".ko") {
            let mut file = Vec::new();
            (&mut entry).take(MODULE).read_to_end(&mut file)?;
            modules.extend(ModuleFile::parse(&file));
        }
        archive = entry.finish()?;
    }
}
