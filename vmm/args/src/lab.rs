//! `ipirig lab`.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

const AFTER: &str = include_str!("help/lab.txt").trim_ascii_end();

#[derive(Debug, ClapArgs)]
#[command(after_help = AFTER)]
pub struct LabArgs {
    /// The emulated CPU's virtualization extension
    #[arg(long, value_enum, default_value_t = Cpu::Svm)]
    pub cpu: Cpu,
    /// CPUs of the host; VMX has one, and with more than one SVM's is not to be relied on
    #[arg(long, value_name = "N", default_value = "1")]
    pub cpus: NonZeroU32,
    /// Memory of the host in MiB
    #[arg(long, value_name = "MIB", default_value = "4096")]
    pub memory: NonZeroU32,
    /// Seconds that the host may take to boot
    #[arg(long, value_name = "SECONDS", default_value = "900")]
    pub boot_timeout: u64,
    /// Write the host's console to this file
    #[arg(long, value_name = "FILE")]
    pub console: Option<PathBuf>,
    /// Run this program instead of ipirig
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,
    /// The program's arguments [default: run static-key-flip]
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub arguments: Vec<OsString>,
}

/// A virtualization extension.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Cpu {
    /// AMD's, by QEMU
    Svm,
    /// Intel's, by Bochs
    Vmx,
}
