//! `ipirig lab`.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

const AFTER: &str = "\
Examples:
  ipirig lab                                 run static-key-flip on a host with SVM
  ipirig lab -- run all --json result.json
  ipirig lab -- doctor                       what the emulated host offers
  ipirig lab --cpu vmx -- run vunmap-storm   with EPT, PCIDs and INVPCID; takes minutes
  ipirig lab --program target/debug/deps/guest-0123 -- --list

The host is a Linux with an ordinary KVM on an emulated CPU. With SVM it has the caller's files
(all of them, writable), directory, environment, terminal and Ctrl-C; the exit code is the
program's. With VMX it has the files that the arguments name and those that ipirig needs, and
sends back what was written. Times mean nothing there. SVM needs qemu-system-x86 8 or later, VMX
bochs; what is missing is named with the command that installs it. The host's kernel is built the
first time.

QEMU emulates each CPU of the host on a thread of its own. With two of them, hosts and guests were
seen to hang, to crawl and to run code that is not there, which with one was not seen.";

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER)]
pub(crate) struct LabArgs {
    /// The emulated CPU's virtualization extension
    #[arg(long, value_enum, default_value_t = Cpu::Svm)]
    pub(crate) cpu: Cpu,
    /// CPUs of the host; VMX has one, and with more than one SVM's is not to be relied on
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) cpus: NonZeroU32,
    /// Memory of the host in MiB
    #[arg(long, value_name = "MIB", default_value = "4096")]
    pub(crate) memory: NonZeroU32,
    /// Seconds that the host may take to boot
    #[arg(long, value_name = "SECONDS", default_value = "900")]
    pub(crate) boot_timeout: u64,
    /// Write the host's console to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) console: Option<PathBuf>,
    /// Run this program instead of ipirig
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
    /// The program's arguments [default: run static-key-flip]
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<OsString>,
}

/// A virtualization extension.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Cpu {
    /// AMD's, by QEMU
    Svm,
    /// Intel's, by Bochs
    Vmx,
}
