//! Which build of a kernel a file is: what tells whether a vmlinux is that of a bzImage.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::image::{Image, ImageError};
use crate::symbols;

/// Most bytes of notes that are looked at. A vmlinux has a few hundred.
const NOTES: u64 = 64 << 10;
/// Bytes of `linux_banner` that are looked at; the kernel's own are fewer (init/version-timestamp.c).
const BANNER: u64 = 1024;
/// Type of the note with the build id, and who defines it (`NT_GNU_BUILD_ID` of elf.h).
const BUILD_ID: (u32, &[u8]) = (3, b"GNU\0");
/// Longest build id: 20 bytes are usual.
const BUILD_ID_MAX: usize = 64;
/// Bytes of a bzImage that are looked at: its setup code, which has its version.
const SETUP: u64 = 64 << 10;
/// Where a bzImage has "HdrS", and where from 512 bytes on its version is (Documentation/arch/x86/boot.rst).
const MAGIC: usize = 0x202;
const VERSION: usize = 0x20e;

/// The build id of a kernel: a hash that the linker made.
#[derive(Clone, PartialEq, Eq)]
pub struct BuildId(Vec<u8>);

impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BuildId({self})")
    }
}

/// The build id among ELF notes, as `/sys/kernel/notes` has them; none if there is none, or they make no sense.
#[must_use]
pub fn build_id(notes: &[u8]) -> Option<BuildId> {
    let mut rest = notes;
    loop {
        let (header, after) = rest.split_first_chunk::<12>()?;
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| header[at + byte]));
        let [name_len, len] = [word(0), word(4)].map(|len| len as usize);
        let padded = |len: usize| len.checked_next_multiple_of(4);
        let (name, after) = (after.get(..name_len)?, after.get(padded(name_len)?..)?);
        let content = after.get(..len)?;
        if (word(8), name) == BUILD_ID && (1..=BUILD_ID_MAX).contains(&len) {
            return Some(BuildId(content.to_vec()));
        }
        rest = after.get(padded(len)?..)?;
    }
}

/// What a kernel's file says of its build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The linker's hash, if the file has it: it is in a vmlinux, and inside of a bzImage's compressed part.
    pub id: Option<BuildId>,
    /// Its version, if the file says.
    pub version: Option<Version>,
}

/// The version of a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`: a number, and when or from what package it was built.
    pub built: String,
}

/// Why it cannot be said that a vmlinux is that of a kernel.
#[derive(Debug, Error)]
pub enum BuildMismatch {
    /// It is another kernel's.
    #[error(
        "{} is not the vmlinux of {}: {differing}; {FROM}",
        vmlinux.display(),
        kernel.display()
    )]
    Differs {
        /// The vmlinux.
        vmlinux: PathBuf,
        /// The kernel that is to be booted.
        kernel: PathBuf,
        /// What is not the same.
        differing: Differing,
    },
    /// A file does not say which build it is.
    #[error("{} does not say which build of a kernel it is: {what}; {FROM}", path.display())]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: &'static str,
    },
    /// The vmlinux is none, or damaged.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// What two builds differ in.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Differing {
    /// The linker's hash.
    #[error("its build id is {0}, the kernel's {1}")]
    Id(BuildId, BuildId),
    /// `uname -r`.
    #[error("it is of Linux {0}, the kernel is {1}")]
    Release(String, String),
    /// `uname -v`.
    #[error("it is build `{0}`, the kernel is `{1}`")]
    Version(String, String),
}

/// Where to get the vmlinux of a distribution's kernel.
const FROM: &str = "a tree that was built has it at its top, Debian in the package linux-image-RELEASE-dbg \
                    (/usr/lib/debug/boot), Fedora in kernel-debuginfo (/usr/lib/debug/lib/modules)";

impl Build {
    /// That of an image with `linux_banner` at this link address.
    fn of_image(image: &Image, banner: Option<u64>) -> Result<Self, ImageError> {
        let mut id = None;
        for range in image.notes() {
            let notes = image.bytes_from(range.start, NOTES)?;
            id = id.or_else(|| build_id(&notes?));
        }
        let banner = match banner {
            Some(at) => image.bytes_from(at, BANNER)?.unwrap_or_default(),
            None => Vec::new(),
        };
        let banner = banner.split(|&byte| byte == 0 || byte == b'\n').next();
        let banner = String::from_utf8_lossy(banner.unwrap_or_default()).into_owned();
        let version = banner.strip_prefix("Linux version ").and_then(stated);
        Ok(Self { id, version })
    }

    /// That of a bzImage: its header has a version (arch/x86/boot/version.c).
    ///
    /// # Errors
    /// When the file cannot be read, or does not say.
    pub fn of_bzimage(path: &Path) -> Result<Self, BuildMismatch> {
        let (file, _) = symbols::open(path).map_err(ImageError::from)?;
        let unknown = || BuildMismatch::Unknown {
            path: path.to_path_buf(),
            what: "its header has no version",
        };
        let mut setup = Vec::new();
        let read: std::io::Result<_> = File::take(file, SETUP).read_to_end(&mut setup);
        read.map_err(|_| unknown())?;
        let version = version_of(&setup).and_then(stated).ok_or_else(unknown)?;
        Ok(Self {
            id: None,
            version: Some(version),
        })
    }

    /// That of the vmlinux at `vmlinux`, if it is the build that is in the file `kernel`, a vmlinux or a
    /// bzImage, as far as that says.
    ///
    /// # Errors
    /// See [`BuildMismatch`].
    pub fn matching(vmlinux: &Path, kernel: &Path) -> Result<Self, BuildMismatch> {
        let unknown = |path: &Path, what| BuildMismatch::Unknown {
            path: path.to_path_buf(),
            what,
        };
        let image = Image::open(vmlinux)?;
        if image.symbols().is_empty() {
            return Err(unknown(vmlinux, "it has no symbols"));
        }
        let banner = image.symbols().address("linux_banner");
        let build = Self::of_image(&image, banner)?;
        let of_kernel = match Self::of_bzimage(kernel) {
            // A vmlinux that is stripped has everything of the same build where it was.
            Err(BuildMismatch::Unknown { .. }) => Self::of_image(&Image::open(kernel)?, banner)?,
            other => other?,
        };
        let differing = match (&build, &of_kernel) {
            (
                Self { id: Some(id), .. },
                Self {
                    id: Some(other), ..
                },
            ) => (id != other).then(|| Differing::Id(id.clone(), other.clone())),
            (
                Self {
                    version: Some(version),
                    ..
                },
                Self {
                    version: Some(other),
                    ..
                },
            ) => version.differs(other),
            (Self { version: None, .. }, _) => {
                return Err(unknown(vmlinux, "it has no bytes of linux_banner"));
            }
            _ => {
                return Err(unknown(
                    kernel,
                    "it has neither a build id nor linux_banner",
                ));
            }
        };
        match differing {
            None => Ok(build),
            Some(differing) => Err(BuildMismatch::Differs {
                vmlinux: vmlinux.to_path_buf(),
                kernel: kernel.to_path_buf(),
                differing,
            }),
        }
    }
}

impl Version {
    fn differs(&self, kernel: &Self) -> Option<Differing> {
        let differing = if self.release == kernel.release {
            Differing::Version(self.built.clone(), kernel.built.clone())
        } else {
            Differing::Release(self.release.clone(), kernel.release.clone())
        };
        (self != kernel).then_some(differing)
    }
}

/// The version in a bzImage's header.
fn version_of(setup: &[u8]) -> Option<&str> {
    if setup.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let at = setup.get(VERSION..VERSION + 2)?.try_into().ok()?;
    let text = setup.get(usize::from(u16::from_le_bytes(at)) + 512..)?;
    str::from_utf8(text.split(|&byte| byte == 0).next()?).ok()
}

/// The version in `RELEASE (WHO) ... #BUILT`.
fn stated(text: &str) -> Option<Version> {
    let (release, rest) = text.split_once(' ')?;
    let at = rest.rfind(" #")?;
    let built = rest.get(at + 1..)?.trim_end();
    (!release.is_empty()).then(|| Version {
        release: release.to_owned(),
        built: built.to_owned(),
    })
}

#[cfg(test)]
mod tests;
