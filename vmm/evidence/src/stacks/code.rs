//! The files of a guest's kernel and modules, as far as its stacks need them.

use std::error::Error;
use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cpio::NewcReader;
use ipirig_blame::{Frames, Kernel, Memory};
use ipirig_entry::slide;
use ipirig_image::{Image, ModuleFile, OrcTable, Symbols};

use super::modules;
use super::source::SymbolSource;

/// Most bytes of an initramfs that are searched for modules.
const INITRAMFS: u64 = 256 << 20;
/// Most bytes of a module, and most modules.
const MODULE: u64 = 64 << 20;
const MODULES: usize = 256;

/// Most bytes of a table that is read from the guest's memory. The largest kernels stay below half of it.
const TABLE: u64 = 16 << 20;
/// A function of every kernel that has ORC tables (arch/x86/kernel/unwind_orc.c), and of no other.
const OF_ORC: &str = "unwind_init";

/// The code that a guest boots.
#[derive(Debug)]
pub struct Code {
    symbols: Symbols,
    frames: FrameSource,
    modules: Vec<ModuleFile>,
    file: Option<PathBuf>,
    /// The guest itself may be asked for names.
    nameless: bool,
}

/// How callers are found.
#[derive(Debug)]
enum FrameSource {
    /// In this way.
    Known(Frames),
    /// By what the guest has in its memory, where symbols are.
    Memory,
}

impl Code {
    /// Reads a kernel, or what stands in for it as `source` says, and the modules of an initramfs. Of what
    /// cannot be read nothing is known, and chains say so.
    #[must_use]
    pub fn read(kernel: &Path, source: &SymbolSource, initramfs: &Path) -> Self {
        let modules = modules_in(initramfs).unwrap_or_default();
        let unknown = |why: String| Self {
            symbols: Symbols::default(),
            frames: FrameSource::Known(Frames::Unknown(why)),
            modules: Vec::new(),
            file: None,
            nameless: false,
        };
        let file = match source {
            SymbolSource::Kernel => kernel,
            SymbolSource::Vmlinux(vmlinux) => vmlinux,
            SymbolSource::Text(path) => {
                return match Symbols::from_system_map(path) {
                    Ok(symbols) => Self {
                        symbols: symbols.lowest(),
                        frames: FrameSource::Memory,
                        modules,
                        file: None,
                        nameless: false,
                    },
                    Err(error) => unknown(crate::chain(&error)),
                };
            }
        };
        let nameless = *source == SymbolSource::Kernel;
        let image = match Image::open(file) {
            Ok(image) => image,
            Err(error) => {
                return Self {
                    nameless,
                    modules,
                    ..unknown(crate::chain(&error))
                };
            }
        };
        let frames = match OrcTable::read(&image) {
            Ok(Some(table)) => Frames::Orc(table),
            Ok(None) => Frames::Pointers,
            Err(error) => Frames::Unknown(crate::chain(&error)),
        };
        let symbols = image.into_symbols();
        Self {
            nameless: nameless && symbols.is_empty(),
            symbols,
            frames: FrameSource::Known(frames),
            modules,
            file: Some(file.to_path_buf()),
        }
    }

    /// Whether nothing has names so far, and the guest may be asked for them.
    pub(super) fn is_nameless(&self) -> bool {
        self.nameless
    }

    /// Takes the names that the guest's `/proc/kallsyms` gave, or the reason why there are none.
    pub(super) fn learn(&mut self, kallsyms: Result<&str, String>) {
        self.nameless = false;
        let symbols = kallsyms.and_then(|text| match Symbols::from_text(text) {
            Ok(symbols) if symbols.is_empty() => Err("it has none (CONFIG_KALLSYMS)".to_owned()),
            other => other.map_err(|fault| fault.to_string()),
        });
        match symbols {
            Ok(symbols) => {
                self.symbols = symbols.lowest();
                self.frames = FrameSource::Memory;
            }
            Err(why) => {
                let why = format!(
                    "the kernel's file has no symbols, and of the guest's /proc/kallsyms: {why}"
                );
                self.frames = FrameSource::Known(Frames::Unknown(why));
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn of(symbols: Symbols, frames: Frames) -> Self {
        Self {
            symbols,
            frames: FrameSource::Known(frames),
            modules: Vec::new(),
            file: None,
            nameless: false,
        }
    }

    /// Names as the guest gave them.
    #[cfg(test)]
    pub(crate) fn in_memory(symbols: Symbols) -> Self {
        Self {
            frames: FrameSource::Memory,
            ..Self::of(symbols, Frames::Pointers)
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
            if !matches!(self.frames, FrameSource::Known(Frames::Unknown(_))) {
                self.frames = FrameSource::Known(Frames::Unknown(error.to_string()));
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
        let frames = match self.frames {
            FrameSource::Known(frames) => frames,
            FrameSource::Memory => frames_in(&self.symbols, slide, memory),
        };
        Kernel::new(self.symbols, frames, slide, loaded.unwrap_or_default())
    }
}

/// How callers are found in a kernel with these symbols, which KASLR moved by `slide`, by what it has in memory.
fn frames_in(symbols: &Symbols, slide: u64, memory: &dyn Memory) -> Frames {
    let bytes = |range: Range<u64>| {
        let len = range
            .end
            .checked_sub(range.start)
            .filter(|&len| len <= TABLE);
        Ok(len.and_then(|len| {
            let mut bytes = vec![0; len as usize];
            let at = range.start.wrapping_add(slide);
            memory.read(at, &mut bytes).then_some(bytes)
        }))
    };
    match OrcTable::read_by(symbols, &bytes) {
        Ok(Some(table)) => Frames::Orc(table),
        Ok(None) if symbols.address(OF_ORC).is_none() => Frames::Pointers,
        Ok(None) => Frames::Unknown(
            "the kernel has ORC tables, and its symbols do not say where (CONFIG_KALLSYMS_ALL); \
             give --vmlinux"
                .to_owned(),
        ),
        Err(error) => Frames::Unknown(crate::chain(&error)),
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
