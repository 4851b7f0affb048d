//! Hosts with SVM or VMX, emulated, for machines that have neither.
//!
//! What it does: boots a Linux with an ordinary KVM on an emulated CPU ([`Lab::run`]) and runs a
//! program of this machine in it, with this machine's files, the caller's directory, environment,
//! standard streams, Ctrl-C and exit code. SVM comes with QEMU's TCG, VMX with Bochs ([`Cpu`]).
//!
//! Both halves are here: outside, [`Lab`] starts the emulator and passes on what it is sent; inside,
//! [`init`] is process 1 of the emulated host. They talk in frames (`wire`) over one port, and
//! what is to be run is a [`Job`] in a file.
//!
//! What it does not do: build the host's kernel (`ipirig-guest` does), know what the program is
//! for, or do anything where there is a KVM already. Times in an emulated host mean nothing.

pub mod init;

mod bochs;
mod error;
mod iso;
mod job;
mod qemu;
mod relay;
mod scratch;
mod tsc;
mod wire;

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::LabError;
pub use job::Job;

/// The virtualization extension of the emulated CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cpu {
    /// AMD's, with nested paging, without PCIDs. QEMU's TCG.
    #[default]
    Svm,
    /// Intel's, with EPT, VPID, PCIDs and INVPCID. Bochs: one CPU, minutes to boot.
    Vmx,
}

impl Cpu {
    /// As typed and printed.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Svm => "svm",
            Self::Vmx => "vmx",
        }
    }
}

/// The images of the host's kernel; one of them is booted.
#[derive(Clone, Debug)]
pub struct HostKernel {
    /// For QEMU: an ELF file with the note of PVH.
    pub vmlinux: PathBuf,
    /// For the boot loader under Bochs.
    pub bzimage: PathBuf,
}

/// An emulated host, and what is to run in it.
#[derive(Debug)]
pub struct Lab<'a> {
    /// Which extension.
    pub cpu: Cpu,
    /// CPUs; Bochs has one whatever this says.
    pub cpus: NonZeroU32,
    /// Memory in MiB.
    pub memory_mib: NonZeroU32,
    /// How long the host may take until the program starts.
    pub boot_timeout: Duration,
    /// This very program: it is process 1 of the host ([`init::INIT_COMMAND`] is its first argument).
    pub init: PathBuf,
    /// The host's kernel.
    pub kernel: HostKernel,
    /// Files that Bochs' host has besides those of the program: it cannot reach this machine's. Under
    /// QEMU all are there.
    pub files: Vec<PathBuf>,
    /// What to run.
    pub job: Job,
    /// Becomes readable when Ctrl-C comes; then the program gets SIGINT.
    pub interrupt: Option<BorrowedFd<'a>>,
    /// Where the host's console goes, instead of nowhere.
    pub console: Option<PathBuf>,
}

/// What became of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code; 128 and the number for a signal, as shells have it.
    pub code: u8,
}

impl Lab<'_> {
    /// Boots the host, runs the job in it and waits for its end.
    ///
    /// # Errors
    /// [`LabError`]. The emulator has ended by then.
    pub fn run(&self) -> Result<Ended, LabError> {
        match self.cpu {
            Cpu::Svm => qemu::run(self),
            Cpu::Vmx => bochs::run(self),
        }
    }
}

/// An environment variable that says inside that the host is emulated, and by what.
pub const INSIDE: &str = "IPIRIG_LAB";

/// A command line of the host's kernel for what is at the same place under both emulators.
fn kernel_words(job: &str, init: &str) -> String {
    // With `reboot=t` a restart is a triple fault, which every emulator takes for the end; nobody
    // is there to wait after a panic. The TSC is an emulator's, so its watchdog is of no use.
    // Words that the kernel does not know are for process 1: those with `=` its environment, others its
    // arguments (init/main.c, unknown_bootoption). QEMU puts words of its own behind ours, so a `--`
    // would make them arguments too.
    format!(
        "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t tsc=reliable \
         init=\"{init}\" {} {}=\"{job}\"",
        init::INIT_COMMAND,
        init::JOB
    )
}

/// As text that the kernel's command line can have between quotation marks.
fn text(path: &Path) -> Result<String, LabError> {
    let text = path
        .to_str()
        .filter(|text| !text.contains(|c: char| c == '"' || c.is_control()));
    text.map(str::to_owned).ok_or_else(|| LabError::Path {
        path: path.to_owned(),
    })
}

/// The words of a command that shows what was tried.
fn shown(words: &[OsString]) -> String {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_would_end_the_quotation_is_refused() {
        assert_eq!(text(Path::new("/a b/c")).expect("can be told"), "/a b/c");
        for path in ["/a\"b", "/a\nb"] {
            let error = text(Path::new(path)).expect_err("cannot be told");
            assert!(matches!(error, LabError::Path { .. }), "{error}");
        }
    }
}
