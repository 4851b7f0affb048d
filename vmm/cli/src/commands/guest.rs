//! `ipirig guest`.

use anyhow::anyhow;
use ipirig_args::{GuestBuildArgs, GuestPathArgs};
use ipirig_guest::stock::StockRequest;
use ipirig_guest::{Guest, Request};
use ipirig_verdict::exit::Code;

use super::tree;
use crate::failure::Failure;
use crate::output::print;
use crate::progress::Progress;

pub(crate) fn build(args: &GuestBuildArgs) -> Result<Code, Failure> {
    let progress = Progress::new(false).installing(args.install_tools);
    if let Some(version) = &args.stock {
        let request = StockRequest {
            version: version.clone(),
            series: args.series,
            source: args.source.clone(),
            update: args.update,
            jobs: args.jobs,
            ..StockRequest::default()
        };
        return stock(&request, &progress);
    }
    let request = Request {
        flavour: args.flavour,
        update: args.update,
        jobs: args.jobs,
        ..Request::default()
    };
    let guest = ipirig_guest::build(&request, &progress)?;
    let state = if guest.fresh {
        "built"
    } else {
        "already built"
    };
    print(&format!(
        "{state}: Linux {} ({}) from linux-source {}, series {}\n{}",
        guest.release,
        guest.flavour,
        guest.package,
        guest.series,
        paths(&guest)
    ))?;
    Ok(Code::Ok)
}

fn stock(request: &StockRequest, progress: &Progress) -> Result<Code, Failure> {
    let kernel = ipirig_guest::stock::build(request, progress)?;
    let initramfs = ipirig_guest::stock::initramfs(&kernel, progress)?;
    let state = if kernel.fresh {
        "built"
    } else {
        "already built"
    };
    print(&format!(
        "{state}: Linux {} from {}, {}\nkernel     {}\ninitramfs  {}\nconfig     {}\nlog        {}\n",
        kernel.release,
        kernel.package,
        kernel.patches(),
        kernel.vmlinux.display(),
        initramfs.path.display(),
        kernel.config.display(),
        kernel.log.display()
    ))?;
    Ok(Code::Ok)
}

/// What a kernel of the user's is to be configured with.
pub(crate) fn config() -> Result<Code, Failure> {
    print(&ipirig_kconfig::requirements::fragment())?;
    Ok(Code::Ok)
}

pub(crate) fn path(args: &GuestPathArgs) -> Result<Code, Failure> {
    if let Some(dir) = &args.tree {
        let kernel = tree::find(dir, args.build)?;
        print(&format!(
            "kernel     {}\ninitramfs  {}\n",
            kernel.vmlinux.display(),
            kernel.initramfs.display()
        ))?;
        return Ok(Code::Ok);
    }
    if args.hostile {
        let request = Request {
            flavour: args.flavour,
            ..Request::default()
        };
        let built = ipirig_guest::hostile_initramfs(&request, &Progress::new(false))?;
        print(&format!("initramfs  {}\n", built.path.display()))?;
        return Ok(Code::Ok);
    }
    for patch in &args.patch {
        if !patch.is_file() {
            let error = anyhow!("--patch {}: no such file", patch.display());
            return Err(Failure::usage(error));
        }
    }
    let request = Request {
        flavour: args.flavour,
        extra_patches: args.patch.clone(),
        ..Request::default()
    };
    let guest = ipirig_guest::build(&request, &Progress::new(false))?;
    print(&paths(&guest))?;
    Ok(Code::Ok)
}

fn paths(guest: &Guest) -> String {
    format!(
        "kernel     {}\ninitramfs  {}\nconfig     {}\nlog        {}\n",
        guest.vmlinux.display(),
        guest.initramfs.display(),
        guest.config.display(),
        guest.log.display()
    )
}
