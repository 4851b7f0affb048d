//! `ipirig run`. Cheap checks first: arguments and scenario, then the kernel file, then the host,
//! then the guest build, then the boot.

use std::path::Path;

use anyhow::Context;
use ipirig_guest::Request;
use ipirig_machine::{ApicMode, ConsoleSinks, Host};
use ipirig_rig::exit::{Code, host_verdict};
use ipirig_rig::plan::{Options, Plan};
use ipirig_rig::render::render;
use ipirig_rig::result::{KernelFiles, RunResult};
use ipirig_rig::run::{Setup, check_initramfs, check_kernel, not_run, run as run_on};
use ipirig_rig::scenario::Scenario;

use super::check_interrupt;
use crate::args::{Apic, RunArgs, Switch};
use crate::failure::Failure;
use crate::output::{check_writable, print, say, stderr_paint, stdout_paint, write_file};
use crate::progress::Progress;

pub(crate) fn run(args: RunArgs) -> Result<Code, Failure> {
    let scenario = Scenario::find(&args.scenario).map_err(Failure::usage)?;
    let json = args.json.clone();
    let outcome = perform(scenario, args)?;
    let code = publish(&outcome.result, json.as_deref())?;
    outcome.advise();
    Ok(code)
}

/// What came of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: RunResult,
    /// What to do about a host that lacks something.
    advice: Option<&'static str>,
}

impl Outcome {
    pub(super) fn advise(&self) {
        if let Some(advice) = self.advice {
            say(&format!("hint: {advice}\n"));
        }
    }
}

/// Runs `scenario` as `args` say, whatever scenario they name.
pub(super) fn perform(scenario: Scenario, args: RunArgs) -> Result<Outcome, Failure> {
    let options = Options {
        vcpus: args.vcpus,
        no_deferral: args.deferral == Switch::Off,
        pin: args.pin,
        memory_mib: args.memory,
        own_kernel: args.kernel.is_some(),
        append: args.append,
        timeout_s: args.timeout,
    };
    let plan = Plan::new(scenario, options).map_err(Failure::usage)?;
    if let Some(kernel) = &args.kernel {
        check_kernel(kernel).map_err(Failure::usage)?;
    }
    if let Some(initramfs) = &args.initramfs {
        check_initramfs(initramfs).map_err(Failure::usage)?;
    }
    for path in file(args.json.as_deref())
        .into_iter()
        .chain(args.log.as_deref())
    {
        check_writable(path).map_err(Failure::usage)?;
    }
    let host = match Host::probe() {
        Ok(host) => host,
        Err(error) => {
            return Ok(Outcome {
                result: not_run(&plan, host_verdict(&error), &error),
                advice: error.advice(),
            });
        }
    };
    let progress = Progress::new(args.console);
    let kernel = kernel_files(args.kernel.as_deref(), args.initramfs.as_deref(), &progress)?;
    check_interrupt()?;
    let setup = Setup {
        plan,
        kernel,
        apic: match args.apic {
            Apic::Auto => ApicMode::Auto,
            Apic::Xapic => ApicMode::Xapic,
            Apic::X2apic => ApicMode::X2apic,
        },
        console: ConsoleSinks {
            terminal: args.console,
            log: args.log,
        },
    };
    let result = run_on(&host, &setup, &|phase| progress.stage(&phase.to_string()));
    progress.finish();
    Ok(Outcome {
        result: result?,
        advice: None,
    })
}

/// The path, unless it stands for standard output.
pub(super) fn file(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| *path != Path::new("-"))
}

/// The files to boot; built where the user gave none.
fn kernel_files(
    kernel: Option<&Path>,
    initramfs: Option<&Path>,
    progress: &Progress,
) -> Result<KernelFiles, Failure> {
    let Some(kernel) = kernel else {
        return built(&Request::default(), progress);
    };
    let initramfs = match initramfs {
        Some(path) => path.to_owned(),
        None => ipirig_guest::initramfs_without_module(progress)?.path,
    };
    Ok(KernelFiles {
        kernel: kernel.to_owned(),
        initramfs,
        package: None,
        series: None,
    })
}

/// The files of a guest that we build.
pub(super) fn built(request: &Request, progress: &Progress) -> Result<KernelFiles, Failure> {
    let guest = ipirig_guest::build(request, progress)?;
    Ok(KernelFiles {
        kernel: guest.vmlinux,
        initramfs: guest.initramfs,
        package: Some(guest.package),
        series: Some(guest.series),
    })
}

/// Prints the result and says how to exit.
fn publish(result: &RunResult, json: Option<&Path>) -> Result<Code, Failure> {
    let text = |result: &RunResult| result.to_json().context("cannot put the result into JSON");
    match json {
        Some(path) if path == Path::new("-") => {
            say(&render(result, stderr_paint()));
            print(&text(result)?)?;
        }
        Some(path) => {
            print(&render(result, stdout_paint()))?;
            write_file(path, &text(result)?).map_err(Failure::usage)?;
        }
        None => print(&render(result, stdout_paint()))?,
    }
    Ok(result.verdict.into())
}
