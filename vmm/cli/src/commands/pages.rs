//! `ipirig completions` and `ipirig man`: what comes of the definition of the command line.

use std::fs;
use std::path::Path;

use anyhow::Context;
use ipirig_args::Args;
use ipirig_verdict::exit::Code;

use crate::failure::Failure;
use crate::output::{not_written, print, write_file};
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

pub(crate) fn completions(shell: Shell) -> Result<Code, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "ipirig", &mut script);
    let script = String::from_utf8(script).context("completions that are no text")?;
    print(&script)?;
    Ok(Code::Ok)
}

/// Writes `ipirig.1`, and a page a command, `ipirig-COMMAND.1`.
pub(crate) fn man(dir: &Path) -> Result<Code, Failure> {
    let failed = || format!("cannot create {}", dir.display());
    fs::create_dir_all(dir)
        .with_context(failed)
        .map_err(Failure::usage)?;
    // Without the command `help`, which has no page.
    let mut command = Args::command().disable_help_subcommand(true);
    command.build();
    page(dir, &command)
}

fn page(dir: &Path, command: &Command) -> Result<Code, Failure> {
    // As typed, with dashes: `ipirig-guest-build`.
    let name = command.get_display_name().unwrap_or("ipirig").to_owned();
    let mut text = Vec::new();
    Man::new(command.clone())
        .title(name.to_uppercase())
        .render(&mut text)
        .context("cannot make a man page")?;
    let text = String::from_utf8(text).context("a man page that is no text")?;
    write_file(&dir.join(format!("{name}.1")), &text).map_err(not_written)?;
    // What is hidden is not typed by anybody.
    let shown = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    for command in shown {
        page(dir, command)?;
    }
    Ok(Code::Ok)
}
