//! `ipirig`: the command line. It reads arguments, shows progress, prints what the rig says and
//! exits as the rig decides (`ipirig_rig::exit`). What a run is, is `ipirig-rig`; how the guest is
//! built, `ipirig-guest`.

mod args;
mod commands;
mod failure;
mod output;
mod pictures;
mod progress;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse();
    match commands::dispatch(args) {
        Ok(code) => code.into(),
        Err(failure) => failure.report().into(),
    }
}
