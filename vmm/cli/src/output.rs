//! Where results go. A reader that has seen enough (`| head`) is no failure.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use ipirig_rig::paint::Paint;

/// Writes to standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes to standard error. Nobody is left to tell if that fails.
pub(crate) fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
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

/// Writes a file in one piece: first beside it, then in its place, so that no half result is ever
/// found there. What is no regular file (a pipe, /dev/stdout) is written to directly.
pub(crate) fn write_file(path: &Path, text: &str) -> anyhow::Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if path.exists() && !path.is_file() {
        return std::fs::write(path, text).with_context(failed);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let written = std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        // Nothing is left behind; the first error is the one to report.
        let _ = std::fs::remove_file(&beside);
    }
    written.with_context(failed)
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
