//! What a vmlinux says about the kernel that is running.
//!
//! What it does: gives names to addresses ([`Symbols`]), the bytes at a link address ([`Image`]), the
//! places that the kernel patches while it runs ([`Sites`]) and how its stack frames are laid out
//! ([`OrcTable`]); names and frames of a module, too ([`ModuleFile`]).
//!
//! What it does not do: load a kernel into a guest (`ipirig-machine` does), know where KASLR put it
//! beyond adding what it is told, disassemble, or judge (`ipirig-entry` does).
//!
//! A vmlinux is a file that anyone can have damaged: every table is bounded, and no number in it is
//! used as an index unchecked.

#![forbid(unsafe_code)]

mod build;
mod image;
mod inlined;
mod module;
mod orc;
mod sites;
mod symbols;

pub use build::{Build, BuildId, BuildMismatch, Differing, Version, build_id};
pub use image::{Image, ImageError};
pub use inlined::Inlined;
pub use module::{
    LoadedModule, ModuleError, ModuleFile, STRUCT_MODULE_LIST, STRUCT_MODULE_NAME, SectionAddresses,
};
pub use orc::{OrcBase, OrcEntry, OrcError, OrcKind, OrcLayout, OrcTable, ReadBytes};
pub use sites::{Alternative, Branch, Site, SiteKind, Sites, SitesError, Table};
pub use symbols::{Function, KERNEL_HALF, NoFunction, Resolved, Symbols, SymbolsError, TextFault};

#[cfg(test)]
mod testing;
