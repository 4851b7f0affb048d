//! The kernel that runs: names and frame layouts of its own code and its modules'.

use ipirig_image::{LoadedModule, OrcEntry, OrcTable, Resolved, Symbols};

/// How a kernel's callers are found on its stack.
#[derive(Debug)]
pub enum Frames {
    /// By ORC tables (CONFIG_UNWINDER_ORC), at link addresses.
    Orc(OrcTable),
    /// By frame pointers (CONFIG_UNWINDER_FRAME_POINTER).
    Pointers,
    /// Not at all, because of this.
    Unknown(String),
}

/// A module that is loaded.
#[derive(Debug)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Its code.
    pub code: LoadedModule,
}

/// The kernel that runs.
#[derive(Debug)]
pub struct Kernel {
    symbols: Symbols,
    frames: Frames,
    slide: u64,
    modules: Vec<Module>,
}

/// A place in the kernel by its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name<'a> {
    /// The module that has it, if it is not in the kernel itself.
    pub module: Option<&'a str>,
    /// The function.
    pub function: Resolved<'a>,
}

impl Kernel {
    /// A kernel with these symbols, without a slide, and these frames, that KASLR moved by `slide`.
    #[must_use]
    pub fn new(symbols: Symbols, frames: Frames, slide: u64, modules: Vec<Module>) -> Self {
        Self {
            symbols: symbols.with_slide(slide),
            frames,
            slide,
            modules,
        }
    }

    /// The function that holds `address`.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<Name<'_>> {
        // First: a kernel's last symbol may seem to reach to where modules are.
        let in_module = |module: &'_ Module| module.code.symbols.resolve(address).is_some();
        if let Some(module) = self.modules.iter().find(|module| in_module(module)) {
            let function = module.code.symbols.resolve(address)?;
            let module = Some(module.name.as_str());
            return Some(Name { module, function });
        }
        let function = self.symbols.resolve(address)?;
        Some(Name {
            module: None,
            function,
        })
    }

    /// The kernel's own symbols, at run time.
    #[must_use]
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// What KASLR added to each address.
    #[must_use]
    pub fn slide(&self) -> u64 {
        self.slide
    }

    /// How callers are found.
    #[must_use]
    pub fn frames(&self) -> &Frames {
        &self.frames
    }

    /// How frames are laid out while the code at `address` runs, by the kernel's table or a
    /// module's.
    pub(crate) fn orc(&self, address: u64, table: &OrcTable) -> Option<OrcEntry> {
        if self.symbols.resolve(address).is_some() {
            return table.find(address.wrapping_sub(self.slide)).copied();
        }
        let modules = self.modules.iter();
        let mut modules = modules.filter(|module| module.code.symbols.resolve(address).is_some());
        modules.find_map(|module| module.code.orc.find(address).copied())
    }
}
