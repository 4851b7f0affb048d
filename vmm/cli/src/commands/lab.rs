//! `ipirig lab`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use ipirig_args::LabArgs;
use ipirig_lab::{Cpu, HostKernel, Job, Lab, LabError};
use ipirig_terminal::interrupt;
use ipirig_verdict::exit::Code;

use crate::failure::Failure;
use crate::progress::Progress;

/// How long the program may take to end after a signal: an emulated host has slow seconds.
const PROGRAM_TIME: Duration = Duration::from_secs(60);

pub(crate) fn lab(args: &LabArgs) -> Result<Code, Failure> {
    let ipirig = std::env::current_exe().context("cannot find this program")?;
    let (program, arguments) = match &args.program {
        Some(program) => (find(program)?, args.arguments.clone()),
        None if args.arguments.is_empty() => (
            ipirig.clone(),
            ["run", "static-key-flip"].map(OsString::from).to_vec(),
        ),
        None => (ipirig.clone(), args.arguments.clone()),
    };
    let cpu = match args.cpu {
        ipirig_args::Cpu::Svm => Cpu::Svm,
        ipirig_args::Cpu::Vmx => Cpu::Vmx,
    };
    let mut job = Job::here(program, arguments).context("cannot find the current directory")?;
    job.set(ipirig_lab::INSIDE, cpu.name());
    // It runs as root there, and the files of the cache are those of whoever runs this.
    job.set(
        ipirig_guest::CACHE_OWNER,
        &ipirig_guest::Trust::here().owners(),
    );

    let kernel = {
        let progress = Progress::new(false);
        ipirig_guest::lab::build(None, &progress)?
    };
    let lab = Lab {
        cpu,
        cpus: args.cpus,
        memory_mib: args.memory,
        boot_timeout: Duration::from_secs(args.boot_timeout),
        init: ipirig,
        kernel: HostKernel {
            vmlinux: kernel.vmlinux,
            bzimage: kernel.bzimage,
        },
        files: match cpu {
            Cpu::Svm => vec![],
            Cpu::Vmx => ipirig_guest::lab::files(&Progress::new(false))?,
        },
        job,
        interrupt: interrupt::descriptor(),
        console: args.console.clone(),
    };
    // The program inside is asked to end, and its end is waited for.
    let _orderly = interrupt::orderly(PROGRAM_TIME);
    let ended = lab.run()?;
    // The program's own, which may be any.
    std::process::exit(i32::from(ended.code))
}

/// The inner half. Only returns where this is not process 1.
pub(crate) fn init() -> Result<Code, Failure> {
    match ipirig_lab::init::run() {
        Err(error) => Err(Failure::usage(error)),
        Ok(never) => match never {},
    }
}

fn find(program: &Path) -> Result<PathBuf, Failure> {
    let path = std::path::absolute(program).context("cannot find the current directory")?;
    if path.is_file() {
        return Ok(path);
    }
    let error = anyhow!("--program {}: no such file", program.display());
    Err(Failure::usage(error))
}

impl From<LabError> for Failure {
    fn from(error: LabError) -> Self {
        let lack = error.is_lack();
        let error = anyhow::Error::from(error);
        if lack {
            return Self::skipped(error);
        }
        error.into()
    }
}
