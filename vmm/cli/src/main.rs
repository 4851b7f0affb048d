//! `ipirig`: the command line. It reads arguments, shows progress, prints what `ipirig-report` makes of
//! results, and exits as `ipirig_verdict::exit` has it. What a run is, is `ipirig-rig`; how the guest is
//! built, `ipirig-guest`.

mod commands;
mod failure;
mod output;
mod pictures;
mod progress;
mod reports;
mod say;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use ipirig_verdict::exit::Code;

use clap::Parser;

fn main() -> ExitCode {
    ipirig_embedded::provide();
    let (code, bisect) = match ipirig_args::Args::try_parse() {
        Ok(args) => {
            let bisect = args.bisect();
            (dispatch(args), bisect)
        }
        Err(error) => {
            // Nobody is left to tell if that fails.
            let _ = error.print();
            let code = if error.use_stderr() {
                Code::Usage
            } else {
                Code::Ok
            };
            (
                code,
                std::env::args_os().any(|arg| arg == ipirig_args::BISECT),
            )
        }
    };
    if bisect {
        code.for_bisect().into()
    } else {
        code.into()
    }
}

/// Carries the command out. A bug that panics is the rig's failure, whoever reads the code: Rust's
/// own 101 would make a commit bad for `git bisect run`.
fn dispatch(args: ipirig_args::Args) -> Code {
    match catch_unwind(AssertUnwindSafe(|| commands::dispatch(args))) {
        Ok(Ok(code)) => code,
        Ok(Err(failure)) => failure.report(),
        Err(_panic) => Code::Error,
    }
}
