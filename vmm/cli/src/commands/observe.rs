//! `ipirig observe`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use ipirig_args::{ObserveArgs, RunOptions};
use ipirig_document::ObservationDocument;
use ipirig_observation::{Report, conclude, not_begun};
use ipirig_report::observation::render;
use ipirig_rig::observe::{IsolatedVcpus, ObservationPlan, guest, load, observe as observe_on};
use ipirig_rig::run::KernelFiles;
use ipirig_scenario::cpu_list;
use ipirig_scenario::guest_files::{self, Extra};
use ipirig_terminal::interrupt;
use ipirig_verdict::exit::{Code, host_verdict};

use super::host::host;
use super::run::{check_files, kernel_files, options, print_both, setup};
use super::{REPORT_TIME, check_interrupt};
use crate::failure::Failure;
use crate::output::{check_writable, not_written, write_file};
use crate::pictures::{check_file, write_observation};
use crate::progress::Progress;
use crate::say::say;

pub(crate) fn observe(args: ObserveArgs) -> Result<Code, Failure> {
    // An agent of the user's own may have others.
    let RunOptions {
        tree,
        stock,
        initramfs,
        ..
    } = &args.options;
    if initramfs.is_none() || tree.is_some() || stock.is_some() {
        load::check(&args.command).map_err(Failure::usage)?;
    }
    let mut options = options(&args.options);
    options.as_is = args.as_is;
    let isolated = match &args.isolated_cpus {
        Some(list) => IsolatedVcpus::These(cpu_list::parse(list).map_err(Failure::usage)?),
        None => IsolatedVcpus::Count(usize::from(args.isolated)),
    };
    let guest = guest(&isolated, options).map_err(Failure::usage)?;
    check_files(&args.options)?;
    if let Some(dir) = args.root.as_ref().filter(|dir| !dir.is_dir()) {
        let error = anyhow!("--root {}: no such directory", dir.display());
        return Err(Failure::usage(error));
    }
    if let Some(path) = &args.output {
        check_writable(path).map_err(Failure::usage)?;
    }
    check_file("--html", args.html.as_deref())?;
    let files = args
        .file
        .iter()
        .map(|file| guest_files::read(&Extra::from(file.as_str())));
    let mut plan = ObservationPlan {
        guest,
        command: args.command,
        files: files.collect::<Result<_, _>>().map_err(Failure::usage)?,
        limit: Duration::from_secs(args.limit),
        any_exit_code: args.ignore_exit_code,
        max_ipis: args.max_ipis,
    };
    let (json, page) = (args.options.json.clone(), args.html);

    let host = match host() {
        Ok(host) => host,
        Err(error) => {
            let report = not_begun(&plan, host_verdict(error), error);
            write_observation(page.as_deref(), &report)?;
            let code = publish(&report, json.as_deref())?;
            if let Some(advice) = error.advice() {
                say(&format!("hint: {advice}\n"));
            }
            return Ok(code);
        }
    };
    // What was ended before there was anything to observe has a report as well, which says so.
    let cut = |plan: &ObservationPlan, failure: Failure| {
        if !failure.is_usage() {
            let _orderly = interrupt::orderly(REPORT_TIME);
            let (verdict, why) = failure.outcome();
            let report = not_begun(plan, verdict, why);
            write_observation(page.as_deref(), &report)?;
            publish(&report, json.as_deref())?;
        }
        Err(failure)
    };
    let progress = Progress::new(args.options.console.is_some());
    let kernel = match boot_files(&args.options, args.root.as_deref(), &mut plan, &progress) {
        Ok(kernel) => kernel,
        Err(failure) => return cut(&plan, failure),
    };
    let setup = setup(plan, kernel, args.options);
    // Ctrl-C ends what is observed, and then there is a report.
    let _orderly = interrupt::orderly(REPORT_TIME);
    let outcome = observe_on(host, &setup, &|phase| {
        progress.stage(&phase.to_string());
    });
    progress.finish();
    let report = match outcome {
        Ok(outcome) => conclude(&setup, outcome),
        Err(error) => return cut(&setup.plan, error.into()),
    };
    if let (Some(path), Some(observation)) = (&args.output, &report.observation) {
        write_file(path, &observation.command.output).map_err(not_written)?;
    }
    write_observation(page.as_deref(), &report)?;
    publish(&report, json.as_deref())
}

/// The files to boot, with those of `root`, for which the guest of `plan` gets the memory.
fn boot_files(
    options: &RunOptions,
    root: Option<&Path>,
    plan: &mut ObservationPlan,
    progress: &Progress,
) -> Result<KernelFiles, Failure> {
    let mut kernel = kernel_files(options, plan.guest.kernel, progress)?;
    if let Some(dir) = root {
        kernel.initramfs = ipirig_guest::with_root(&kernel.initramfs, dir)?.path;
        let bytes = fs::metadata(&kernel.initramfs).map_or(0, |file| file.len());
        // It is in memory twice while the kernel unpacks it.
        plan.guest.memory_mib = match options.memory {
            Some(asked) => asked,
            None => plan.guest.memory_mib + 2 * bytes.div_ceil(1 << 20),
        };
        plan.guest.check_memory().map_err(Failure::usage)?;
    }
    check_interrupt()?;
    Ok(kernel)
}

fn publish(report: &Report, json: Option<&Path>) -> Result<Code, Failure> {
    let text = || {
        let document = ObservationDocument::from(report);
        document
            .to_json()
            .context("cannot put the report into JSON")
    };
    print_both(&|paint| render(report, paint), &text, json)?;
    Ok(report.run.verdict.into())
}
