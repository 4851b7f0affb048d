//! One file a command.

mod audit;
mod blame;
mod compare;
mod doctor;
mod entry;
mod gate;
mod guest;
mod host;
mod lab;
mod list;
mod mutants;
mod observe;
mod pages;
mod run;
mod schema;
mod sweep;
mod tree;

use std::time::Duration;

use anyhow::Context;
use ipirig_args::{Args, Command, GuestCommand};
use ipirig_verdict::exit::Code;

use crate::failure::Failure;

pub(crate) fn dispatch(mut args: Args) -> Result<Code, Failure> {
    ipirig_terminal::interrupt::install().context("cannot catch Ctrl-C")?;
    if let Some(options) = args.run_options() {
        tree::resolve(options)?;
    }
    match args.command {
        Command::Run(args) => run::run(*args),
        Command::Entry(args) => entry::entry(*args),
        Command::Sweep(args) => sweep::sweep(*args),
        Command::Merge(args) => sweep::merge(&args),
        Command::Observe(args) => observe::observe(*args),
        Command::Audit(args) => audit::audit(&args),
        Command::Blame(args) => blame::blame(*args),
        Command::Mutants(args) => mutants::mutants(&args),
        Command::Gate(args) => gate::gate(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { dir } => pages::man(&dir),
        Command::Lab(args) => lab::lab(&args),
        Command::LabInit => lab::init(),
        Command::List => list::list(),
        Command::Schema { of } => schema::schema(of),
        Command::Doctor => doctor::doctor(),
        Command::Guest(GuestCommand::Build(args)) => guest::build(&args),
        Command::Guest(GuestCommand::Path(args)) => guest::path(&args),
        Command::Guest(GuestCommand::Config) => guest::config(),
    }
}

/// How long the end and the report of what was interrupted may take.
const REPORT_TIME: Duration = Duration::from_secs(10);

/// Ends the command if Ctrl-C came.
fn check_interrupt() -> Result<(), Failure> {
    if ipirig_terminal::interrupt::requested() {
        return Err(Failure::interrupted());
    }
    Ok(())
}
