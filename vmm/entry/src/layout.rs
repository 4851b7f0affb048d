//! Where things are in the kernel that runs.

use std::ops::Range;

use ipirig_image::{Image, KERNEL_HALF, Site, SiteKind, Sites, SitesError, Symbols};
use serde::Serialize;
use thiserror::Error;

/// Where modules and BPF programs are: above the mapping of the kernel image (mm.rst).
pub const MODULES: Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;
/// Where each CPU's entry stacks are, mapped in the user page table too (mm.rst).
const CPU_ENTRY_AREA: Range<u64> = 0xffff_fe00_0000_0000..0xffff_fe80_0000_0000;
/// Size and alignment of a task's stack without KASAN (arch/x86/include/asm/page_64_types.h).
const THREAD_SIZE: u64 = 16 << 10;
/// First address of the kernel's half with page tables of 4 levels (mm.rst).
const KERNEL_HALF_4_LEVEL: u64 = 0xffff_8000_0000_0000;
/// KASLR moves the kernel by multiples of at least this (CONFIG_PHYSICAL_ALIGN), and by less than
/// the size of its mapping (KERNEL_IMAGE_SIZE in page_64_types.h).
const SLIDE_ALIGN: u64 = 2 << 20;
const SLIDE_MAX: u64 = 1 << 30;

/// Per-CPU bytes by which senders of IPIs decide whether a CPU may be left alone, by the symbol
/// that holds them at its start: the reference series' `kernel_cr3.loaded`, and the variable of
/// v7 to v9 of the series on the mailing lists.
pub const FLAGS: [&str; 2] = ["kernel_cr3", "kernel_cr3_loaded"];

/// Why an entry cannot be judged with a kernel file.
#[derive(Debug, Error)]
pub enum LayoutError {
    /// A symbol is missing.
    #[error(
        "the kernel file has no symbol `{name}`; give the vmlinux, not stripped, of the kernel that runs"
    )]
    NoSymbol {
        /// Its name.
        name: &'static str,
    },
    /// LSTAR does not point to the kernel's SYSCALL entry, wherever KASLR may have put it.
    #[error(
        "SYSCALL goes to {lstar:#x}, where `entry_SYSCALL_64`, linked at {linked:#x}, cannot be; \
         give the vmlinux of the kernel that runs"
    )]
    OtherKernel {
        /// What the machine has in IA32_LSTAR.
        lstar: u64,
        /// The symbol's link address.
        linked: u64,
    },
    /// The kernel's tables of patched places cannot be had.
    #[error(transparent)]
    Sites(#[from] SitesError),
}

/// Where an instruction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CodeRegion {
    /// `.entry.text`, and the thunks that it may call (arch/x86/lib/retpoline.S).
    Entry,
    /// `.noinstr.text`.
    Noinstr,
    /// A module or a BPF program.
    Module,
    /// Anywhere else in the kernel's half: code that may be instrumented.
    Kernel,
    /// Below the kernel's half.
    User,
}

impl CodeRegion {
    /// Whether tracing and patching are free to change code there.
    #[must_use]
    pub fn is_instrumentable(self) -> bool {
        matches!(self, Self::Kernel | Self::Module)
    }
}

/// The per-CPU byte that tells senders whether a CPU may be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownFlag {
    /// The symbol that holds it.
    pub name: &'static str,
    /// What to add to the base of the kernel's GS, modulo 2^64.
    pub offset: u64,
}

/// What KASLR adds to each address of the kernel with these symbols, whose IA32_LSTAR is `lstar`.
///
/// # Errors
/// When the symbols are another kernel's, or there are none.
pub fn slide(symbols: &Symbols, lstar: u64) -> Result<u64, LayoutError> {
    let linked = address(symbols, "entry_SYSCALL_64")?;
    let slide = lstar.wrapping_sub(linked);
    if slide % SLIDE_ALIGN != 0 || slide >= SLIDE_MAX {
        return Err(LayoutError::OtherKernel { lstar, linked });
    }
    Ok(slide)
}

/// Where things are in the kernel that runs. All addresses are those at run time.
#[derive(Debug)]
pub struct KernelLayout {
    symbols: Symbols,
    sites: Sites,
    slide: u64,
    entry_text: Range<u64>,
    noinstr_text: Range<u64>,
    /// Empty in a kernel without them.
    thunks: Range<u64>,
    flag: Option<KnownFlag>,
    /// Where vmalloc memory is. The default is that of a kernel with 4-level page tables without
    /// CONFIG_RANDOMIZE_MEMORY; with it, or with 5 levels, it is where the kernel's variable `vmalloc_base` says
    /// ([`KernelLayout::vmalloc_base`]).
    pub vmalloc: Range<u64>,
    /// Size and alignment of a task's stack. The default is that of a kernel without KASAN.
    pub thread_size: u64,
}

impl KernelLayout {
    /// Where vmalloc memory is with 4-level page tables and no CONFIG_RANDOMIZE_MEMORY
    /// (Documentation/arch/x86/x86_64/mm.rst).
    pub const VMALLOC: Range<u64> = 0xffff_c900_0000_0000..0xffff_e900_0000_0000;

    /// The layout of the kernel in `image` on a machine whose IA32_LSTAR is `lstar`.
    ///
    /// # Errors
    /// When `image` lacks symbols, has damaged tables or is another kernel's.
    pub fn new(image: Image, lstar: u64) -> Result<Self, LayoutError> {
        let sites = Sites::read(&image)?;
        Self::from_parts(image.into_symbols(), sites, lstar)
    }

    /// The same from symbols without a slide and from sites; without a vmlinux there are none.
    ///
    /// # Errors
    /// When symbols are missing or another kernel's.
    pub fn from_parts(symbols: Symbols, sites: Sites, lstar: u64) -> Result<Self, LayoutError> {
        let slide = slide(&symbols, lstar)?;
        let symbols = symbols.with_slide(slide);
        let range = |start, end| -> Result<Range<u64>, LayoutError> {
            Ok(address(&symbols, start)?..address(&symbols, end)?)
        };
        let flag = FLAGS.into_iter().find_map(|name| {
            let offset = symbols.address(name)?;
            Some(KnownFlag { name, offset })
        });
        Ok(Self {
            entry_text: range("__entry_text_start", "__entry_text_end")?,
            noinstr_text: range("__noinstr_text_start", "__noinstr_text_end")?,
            thunks: range("__indirect_thunk_start", "__indirect_thunk_end").unwrap_or_default(),
            symbols,
            sites,
            slide,
            flag,
            vmalloc: Self::VMALLOC,
            thread_size: THREAD_SIZE,
        })
    }

    /// The kernel's symbols, at run time.
    #[must_use]
    pub fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// What KASLR added to each address.
    #[must_use]
    pub fn slide(&self) -> u64 {
        self.slide
    }

    /// The flag by which senders decide, if this kernel has one that is known.
    #[must_use]
    pub fn flag(&self) -> Option<KnownFlag> {
        self.flag
    }

    /// Where the flag of the CPU is whose GS has `gs_base`. None if that is no kernel address:
    /// before SWAPGS what is relative to GS is the user's.
    #[must_use]
    pub fn flag_address(&self, gs_base: u64) -> Option<u64> {
        let flag = self.flag?;
        (gs_base >= KERNEL_HALF).then(|| gs_base.wrapping_add(flag.offset))
    }

    /// `.entry.text`, without the thunks.
    #[must_use]
    pub fn entry_text(&self) -> Range<u64> {
        self.entry_text.clone()
    }

    /// `.noinstr.text`.
    #[must_use]
    pub fn noinstr_text(&self) -> Range<u64> {
        self.noinstr_text.clone()
    }

    /// Where the instruction at `rip` is.
    #[must_use]
    pub fn place(&self, rip: u64) -> CodeRegion {
        if rip < KERNEL_HALF {
            CodeRegion::User
        } else if self.entry_text.contains(&rip) || self.thunks.contains(&rip) {
            CodeRegion::Entry
        } else if self.noinstr_text.contains(&rip) {
            CodeRegion::Noinstr
        } else if MODULES.contains(&rip) {
            CodeRegion::Module
        } else {
            CodeRegion::Kernel
        }
    }

    /// The sites that overlap `range`, their addresses those at link time.
    pub fn sites_at(&self, range: &Range<u64>) -> impl Iterator<Item = &Site> {
        let linked = |address: u64| address.saturating_sub(self.slide);
        self.sites.at(linked(range.start)..linked(range.end))
    }

    /// The name of what makes the kernel patch a site.
    #[must_use]
    pub fn site_name(&self, kind: SiteKind) -> String {
        match kind {
            SiteKind::StaticKey { key } => format!("static key {}", self.linked_name(key)),
            SiteKind::StaticCall { key } => format!("static call {}", self.linked_name(key)),
            SiteKind::Ftrace => "ftrace's function entry".into(),
            SiteKind::Alternative => "alternative".into(),
        }
    }

    /// The address of the variable that says where vmalloc memory begins, in a kernel that has it elsewhere than by
    /// default: one with CONFIG_RANDOMIZE_MEMORY or built for 5-level page tables (arch/x86/mm/kaslr.c,
    /// arch/x86/kernel/head64.c).
    #[must_use]
    pub fn vmalloc_base(&self) -> Option<u64> {
        self.symbols.address("vmalloc_base")
    }

    /// Has vmalloc memory begin at `base`, with the size that it has there: addresses below the half of 4-level page
    /// tables are those of 5-level ones (VMALLOC_SIZE_TB of arch/x86/include/asm/pgtable_64_types.h).
    pub fn put_vmalloc_at(&mut self, base: u64) {
        let tera: u64 = if base < KERNEL_HALF_4_LEVEL {
            12800
        } else {
            32
        };
        self.vmalloc = base..base.saturating_add(tera << 40);
    }

    /// Whether `address` is on the stack that `rsp` is in, and that in vmalloc memory (VMAP_STACK).
    #[must_use]
    pub fn is_task_stack(&self, address: u64, rsp: u64) -> bool {
        let stack = |address: u64| address.checked_div(self.thread_size);
        // An empty stack ends where RSP is.
        let here = stack(rsp.wrapping_sub(1));
        self.vmalloc.contains(&address) && here.is_some() && stack(address) == here
    }

    /// Whether `address` may lose its translation while the kernel runs, and its stale one be used
    /// then: in vmalloc memory other than the task's stack at `rsp`, or where modules are. A flush
    /// names the hull of what it unmaps, which may reach from the one over the kernel image to the
    /// other (`__purge_vmap_area_lazy` of mm/vmalloc.c); what else is in it stays as it is.
    #[must_use]
    pub fn can_be_unmapped(&self, address: u64, rsp: u64) -> bool {
        self.is_vmalloc(address, rsp) || MODULES.contains(&address)
    }

    /// Whether `address` is in vmalloc memory other than the stack that `rsp` is in.
    #[must_use]
    pub fn is_vmalloc(&self, address: u64, rsp: u64) -> bool {
        self.vmalloc.contains(&address) && !self.is_task_stack(address, rsp)
    }

    /// `address` as `symbol+0xoffset`, or the area it is in, or the number.
    #[must_use]
    pub fn describe(&self, address: u64) -> String {
        if let Some(resolved) = self.symbols.resolve(address) {
            return named(resolved.name, resolved.offset);
        }
        let area = if self.vmalloc.contains(&address) {
            "vmalloc"
        } else if CPU_ENTRY_AREA.contains(&address) {
            "entry stack"
        } else if MODULES.contains(&address) {
            "module"
        } else if address < KERNEL_HALF {
            "user"
        } else {
            return format!("{address:#x}");
        };
        format!("{area} {address:#x}")
    }

    /// The per-CPU variable at `address` of the CPU whose GS has `gs_base`, as `symbol+0xoffset`.
    #[must_use]
    pub fn per_cpu(&self, address: u64, gs_base: u64) -> Option<String> {
        if gs_base < KERNEL_HALF {
            return None;
        }
        self.symbols
            .resolve_per_cpu(address.wrapping_sub(gs_base))
            .map(|resolved| named(resolved.name, resolved.offset))
    }

    fn linked_name(&self, linked: u64) -> String {
        self.describe(linked.wrapping_add(self.slide))
    }
}

fn named(name: &str, offset: u64) -> String {
    if offset == 0 {
        name.into()
    } else {
        format!("{name}+{offset:#x}")
    }
}

fn address(symbols: &Symbols, name: &'static str) -> Result<u64, LayoutError> {
    symbols.address(name).ok_or(LayoutError::NoSymbol { name })
}

#[cfg(test)]
mod tests;
