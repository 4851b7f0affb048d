//! Where results go. A reader that has seen enough (`| head`) is no failure.
//!
//! This is the one way to a terminal: [`print()`], `crate::say` and what `crate::progress` shows replace control characters,
//! which a guest, a kernel's file or somebody's results may have in them. The guest's console has its own way
//! (`ipirig_machine::ConsoleStyle`), with the same filter.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use ipirig_report::paint::{Paint, shown};
use ipirig_terminal::tidy::Unfinished;

use crate::failure::Failure;

/// Writes what is for people to standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    write_out(&shown(text))
}

/// Writes what is for machines to standard output: as it is, unless that is a terminal.
pub(crate) fn print_file(text: &str) -> anyhow::Result<()> {
    if io::stdout().is_terminal() {
        return print(text);
    }
    write_out(text)
}

fn write_out(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Whose fault it is that a file that looked well could not be written: the user's if there is no way to it, else
/// the machine's, whose disk is full, say.
pub(crate) fn not_written(error: anyhow::Error) -> Failure {
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    match kind {
        Some(
            ErrorKind::NotFound
            | ErrorKind::PermissionDenied
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::ReadOnlyFilesystem,
        ) => Failure::usage(error),
        _ => error.into(),
    }
}

/// Checks that a file can be written to `path` later, as far as can be told without doing so.
pub(crate) fn check_writable(path: &Path) -> anyhow::Result<()> {
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    anyhow::ensure!(
        parent.is_dir(),
        "cannot write {}: no such directory",
        path.display()
    );
    anyhow::ensure!(
        !path.is_dir(),
        "cannot write {}: it is a directory",
        path.display()
    );
    Ok(())
}

/// Writes a text file in one piece, as [`write_file_by`].
pub(crate) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    write_file_by(path, &mut |out| out.write_all(text.as_bytes()))
}

/// Has `write` write a file in one piece: first beside it, then in its place, so that no half result is ever
/// found there. What is no regular file (a pipe, /dev/stdout) is written to directly.
pub(crate) fn write_file_by(
    path: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if path.exists() && !path.is_file() {
        return buffered(path, write).with_context(failed);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let _unfinished = Unfinished::new(&beside);
    let written = buffered(&beside, write).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // Nothing is left behind; the first error is the one to report.
        let _ = std::fs::remove_file(&beside);
    }
    written.with_context(failed)
}

fn buffered(
    path: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write(&mut out)?;
    out.flush()
}

/// Colour for standard output.
pub(crate) fn stdout_paint() -> Paint {
    Paint::choose(
        io::stdout().is_terminal(),
        std::env::var_os("NO_COLOR").as_deref(),
    )
}

/// Colour for standard error.
pub(crate) fn stderr_paint() -> Paint {
    Paint::choose(
        io::stderr().is_terminal(),
        std::env::var_os("NO_COLOR").as_deref(),
    )
}
