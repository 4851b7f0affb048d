//! Runs programs with a clean environment and keeps what they print.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use ipirig_terminal::{children, interrupt};

use crate::StoreError;

/// How many lines of a failed program's output an error shows.
const EXCERPT_LINES: usize = 15;

/// What every program may see of our environment. Anything else could change what is built:
/// `MAKEFLAGS`, `ARCH`, `CROSS_COMPILE`, `KCFLAGS`, `RUSTFLAGS`, `CPATH` and so on.
const KEPT: [&str; 12] = [
    "PATH",
    "HOME",
    "TMPDIR",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Signals with which a user or a system ends a program on purpose: SIGHUP, SIGINT, SIGTERM.
const STOP_SIGNALS: [i32; 3] = [1, 2, 15];

/// A program to run.
#[derive(Debug)]
pub struct Program {
    command: Command,
    shown: String,
}

impl Program {
    /// The program `name`, from `PATH`, without arguments and with a clean environment.
    pub fn new(name: impl AsRef<OsStr>) -> Self {
        let name = name.as_ref();
        let mut command = Command::new(name);
        command.env_clear().env("LC_ALL", "C").stdin(Stdio::null());
        let mut this = Self {
            command,
            shown: name.display().to_string(),
        };
        for var in KEPT {
            this.keep(var);
        }
        this
    }

    /// Lets one more variable of ours through.
    pub fn keep(&mut self, var: &str) {
        if let Some(value) = std::env::var_os(var) {
            self.command.env(var, value);
        }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.shown.push(' ');
        self.shown.push_str(&arg.as_ref().to_string_lossy());
        self.command.arg(arg);
        self
    }

    /// More arguments, in this order.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// An argument of the form `name=path`.
    #[must_use]
    pub fn assign(self, name: &str, path: &Path) -> Self {
        let mut arg = OsString::from(name);
        arg.push("=");
        arg.push(path);
        self.arg(arg)
    }

    /// A variable of its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// The directory to run it in.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it to its end, or to that of this process: it is in a process group of its own, which ends with it. Both its outputs go to `log`, which is appended to, and line by line to
    /// `heard`. `what` is for the error: "building the kernel".
    ///
    /// # Errors
    ///
    /// [`StoreError::Spawn`], [`StoreError::Failed`], [`StoreError::Interrupted`] if a signal that a user sends ended
    /// it, [`StoreError::Io`] if the log cannot be written.
    pub fn run(
        self,
        what: &str,
        log: &Path,
        mut heard: impl FnMut(&str),
    ) -> Result<(), StoreError> {
        let Self { mut command, shown } = self;
        let no_log = |error| StoreError::io("write", log)(error);
        let mut log_file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(no_log)?;
        writeln!(log_file, "+ {shown}").map_err(no_log)?;

        let spawn_error = |source| StoreError::Spawn {
            program: program_name(&shown),
            source,
        };
        let (reader, writer) = io::pipe().map_err(spawn_error)?;
        command
            .stdout(writer.try_clone().map_err(spawn_error)?)
            .stderr(writer);
        let (mut child, group) = children::spawn(&mut command).map_err(spawn_error)?;
        // It holds our copies of the writing end: without this the reader sees no end.
        drop(command);

        let mut tail = Tail::default();
        let copied = copy_lines(reader, &mut log_file, |line| {
            tail.push(line);
            heard(line);
        });
        if let Err(error) = copied {
            // It may be waiting for us to read; it has ended already if this fails.
            let _ = child.kill();
            let _ = child.wait();
            return Err(no_log(error));
        }
        let status = child.wait().map_err(spawn_error)?;
        drop(group);
        if status.success() && !interrupt::requested() {
            return Ok(());
        }
        let what = what.to_owned();
        let stopped = status
            .signal()
            .is_some_and(|signal| STOP_SIGNALS.contains(&signal));
        // Some end with a code when they are asked to end.
        if stopped || interrupt::requested() {
            return Err(StoreError::Interrupted { what });
        }
        Err(StoreError::Failed {
            what,
            status,
            log: log.to_owned(),
            excerpt: tail.text(),
        })
    }
}

fn program_name(shown: &str) -> String {
    shown.split(' ').next().unwrap_or(shown).to_owned()
}

fn copy_lines(from: impl io::Read, log: &mut File, mut heard: impl FnMut(&str)) -> io::Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    loop {
        line.clear();
        if from.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        log.write_all(&line)?;
        heard(String::from_utf8_lossy(&line).trim_end());
    }
}

/// The last lines that say more than that a file is being compiled.
#[derive(Debug, Default)]
struct Tail(VecDeque<String>);

impl Tail {
    fn push(&mut self, line: &str) {
        if line.is_empty() || is_step(line) {
            return;
        }
        if self.0.len() == EXCERPT_LINES {
            self.0.pop_front();
        }
        self.0.push_back(line.to_owned());
    }

    fn text(self) -> String {
        Vec::from(self.0).join("\n")
    }
}

/// Whether the line only says what is being worked on: `  CC      kernel/fork.o` of Kbuild,
/// `   Compiling libc v0.2.0` of Cargo.
#[must_use]
pub fn is_step(line: &str) -> bool {
    let Some(rest) = line.strip_prefix("  ") else {
        return false;
    };
    let mut words = rest.split_whitespace();
    let (Some(verb), Some(_)) = (words.next(), words.next()) else {
        return false;
    };
    let kbuild = verb.len() > 1
        && verb.starts_with(|c: char| c.is_ascii_uppercase())
        && verb
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
    let cargo = [
        "Compiling",
        "Downloading",
        "Downloaded",
        "Updating",
        "Locking",
    ]
    .contains(&verb);
    kbuild || cargo
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Program {
        Program::new("sh").arg("-c").arg(script)
    }

    #[test]
    fn environment_is_clean() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut lines = Vec::new();
        Program::new("env")
            .env("EXTRA", "1")
            .run("listing", &dir.path().join("log"), |line| {
                lines.push(line.to_owned());
            })
            .expect("env runs");
        let names = lines.iter().filter_map(|l| l.split('=').next());
        let strange: Vec<_> = names
            .filter(|n| !KEPT.contains(n) && !["LC_ALL", "EXTRA"].contains(n))
            .collect();
        // Cargo sets many variables for tests, none of which may leak.
        assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some());
        assert_eq!(strange, Vec::<&str>::new());
        assert!(lines.contains(&"LC_ALL=C".to_owned()));
    }

    #[test]
    fn failure_shows_the_last_lines_without_progress_and_names_the_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let script = "for i in $(seq 20); do echo line $i; done; echo 'x.c:1: error: no' >&2; \
                      echo '  CC      kernel/fork.o'; exit 2";
        let error = sh(script)
            .run("building it", &log, |_| {})
            .expect_err("exits with 2");
        let expected: Vec<_> = (7..=20)
            .map(|i| format!("line {i}"))
            .chain(["x.c:1: error: no".into()])
            .collect();
        assert_eq!(
            error.to_string(),
            format!(
                "building it failed (exit status: 2); the full log is {}\n{}",
                log.display(),
                expected.join("\n")
            )
        );
        let text = std::fs::read_to_string(&log).expect("a log");
        assert_eq!(text.lines().count(), 23, "{text}");
    }

    #[test]
    fn death_by_a_stop_signal_is_an_interrupt() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("log");
        let error = sh("kill -INT $$")
            .run("building it", &log, |_| {})
            .expect_err("killed");
        assert!(matches!(error, StoreError::Interrupted { .. }), "{error:?}");
        assert_eq!(error.to_string(), "interrupted while building it");
        let error = sh("kill -KILL $$")
            .run("building it", &log, |_| {})
            .expect_err("killed");
        assert!(matches!(error, StoreError::Failed { .. }), "{error:?}");
    }

    #[test]
    fn missing_program_is_named() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = Program::new("no-such-program-here")
            .arg("x")
            .run("trying", &dir.path().join("log"), |_| {})
            .expect_err("not installed");
        assert_eq!(error.to_string(), "cannot start `no-such-program-here`");
    }

    #[test]
    fn steps_are_told_from_messages() {
        for step in [
            "  CC      kernel/fork.o",
            "  CC [M]  ipirig.o",
            "  LD      vmlinux.o",
        ] {
            assert!(is_step(step), "{step}");
        }
        assert!(is_step("   Compiling libc v0.2.0"));
        for message in [
            "make: *** [x] Error 2",
            "  int x;",
            "  A",
            "CC x",
            "  123 | foo",
            "",
        ] {
            assert!(!is_step(message), "{message}");
        }
    }
}
