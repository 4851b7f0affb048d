//! `ipirig run`. Cheap checks first: arguments and scenario, then the kernel file, then the host,
//! then the guest build, then the boot.

use std::path::Path;

use anyhow::Context;
use ipirig_guest::Request;
use ipirig_machine::{ApicMode, ConsoleSinks, Host, HostError};
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
    let json = args.json.as_deref();
    for path in json
        .filter(|path| *path != Path::new("-"))
        .into_iter()
        .chain(args.log.as_deref())
    {
        check_writable(path).map_err(Failure::usage)?;
    }
    let host = match Host::probe() {
        Ok(host) => host,
        Err(error) => return host_lacks(&plan, json, &error),
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
    publish(&result?, json)
}

fn host_lacks(plan: &Plan, json: Option<&Path>, error: &HostError) -> Result<Code, Failure> {
    let result = not_run(plan, host_verdict(error), error);
    let code = publish(&result, json)?;
    if let Some(advice) = error.advice() {
        say(&format!("hint: {advice}\n"));
    }
    Ok(code)
}

/// The files to boot; built where the user gave none.
fn kernel_files(
    kernel: Option<&Path>,
    initramfs: Option<&Path>,
    progress: &Progress,
) -> Result<KernelFiles, Failure> {
    let Some(kernel) = kernel else {
        let guest = ipirig_guest::build(&Request::default(), progress)?;
        return Ok(KernelFiles {
            kernel: guest.vmlinux,
            initramfs: guest.initramfs,
            package: Some(guest.package),
            series: Some(guest.series),
        });
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
