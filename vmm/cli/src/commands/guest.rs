//! `ipirig guest`.

use ipirig_guest::{Guest, Request};
use ipirig_rig::exit::Code;

use crate::args::GuestBuildArgs;
use crate::failure::Failure;
use crate::output::print;
use crate::progress::Progress;

pub(crate) fn build(args: &GuestBuildArgs) -> Result<Code, Failure> {
    let request = Request {
        update: args.update,
        jobs: args.jobs,
        ..Request::default()
    };
    let guest = ipirig_guest::build(&request, &Progress::new(false))?;
    let state = if guest.fresh {
        "built"
    } else {
        "already built"
    };
    print(&format!(
        "{state}: Linux {} from linux-source {}, series {}\n{}",
        guest.release,
        guest.package,
        guest.series,
        paths(&guest)
    ))?;
    Ok(Code::Ok)
}

pub(crate) fn path() -> Result<Code, Failure> {
    let guest = ipirig_guest::build(&Request::default(), &Progress::new(false))?;
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
