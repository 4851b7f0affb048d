//! Where the names of a kernel's addresses come from.

use std::path::{Path, PathBuf};

use ipirig_image::{Build, BuildMismatch, Image, Symbols, SymbolsError};
use thiserror::Error;

/// Where the names of a kernel's addresses come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SymbolSource {
    /// The file that is booted; where that has none, the guest's own `/proc/kallsyms`.
    #[default]
    Kernel,
    /// The vmlinux of the same build.
    Vmlinux(PathBuf),
    /// A System.map, or a copy of `/proc/kallsyms`.
    Text(PathBuf),
}

/// Why names cannot come from there.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The vmlinux is not that of the kernel.
    #[error(transparent)]
    Build(#[from] BuildMismatch),
    /// There are no symbols.
    #[error(transparent)]
    Symbols(#[from] SymbolsError),
}

impl SymbolSource {
    /// The file, if it is not the kernel's own.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Kernel => None,
            Self::Vmlinux(path) | Self::Text(path) => Some(path),
        }
    }

    /// Checks the file before anything is started: whether a vmlinux is of the same build as `kernel`, as far as both
    /// say. Gives the build id that the kernel must have, in hexadecimal digits, if there is one.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or what differs.
    pub fn check(&self, kernel: &Path) -> Result<Option<String>, SourceError> {
        match self {
            Self::Kernel => Ok(None),
            Self::Vmlinux(vmlinux) => {
                let build = Build::matching(vmlinux, kernel)?;
                Ok(build.id.map(|id| id.to_string()))
            }
            Self::Text(path) => {
                Symbols::from_system_map(path)?;
                Ok(None)
            }
        }
    }

    /// The file that has the code and the symbols of `kernel`, or why there is none.
    ///
    /// # Errors
    ///
    /// In words.
    pub fn image(&self, kernel: &Path) -> Result<Image, String> {
        let path = match self {
            Self::Kernel => kernel,
            Self::Vmlinux(vmlinux) => vmlinux,
            Self::Text(path) => {
                let path = path.display();
                return Err(format!("{path} has names and no code; give --vmlinux"));
            }
        };
        Image::open(path).map_err(|error| crate::chain(&error))
    }
}
