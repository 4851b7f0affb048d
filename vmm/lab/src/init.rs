//! The inner half: process 1 of the emulated host. It makes the host a place where programs can run,
//! runs the one that the job names, and turns the host off.
//!
//! What it says goes to the kernel's log, and the reason of a failure to the outer half as well.

mod changes;
mod port;

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, wait};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::system::{RebootCommand, reboot};
use rustix::termios::{OptionalActions, OutputModes, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use port::Port;

use crate::job::{Job, Terminals};
use crate::wire::{Frame, PULSE};

/// The first argument of the program that is process 1.
pub const INIT_COMMAND: &str = "lab-init";
/// The variable of its environment that has the job's file.
pub(crate) const JOB: &str = "IPIRIG_LAB_JOB";

/// Where changes of a root that cannot be written go.
const CHANGES: &str = "/run/changes";

/// What the host's file systems are: source, place, type, options.
const MOUNTS: [(&str, &str, &str, &str); 8] = [
    ("proc", "/proc", "proc", ""),
    ("sysfs", "/sys", "sysfs", ""),
    ("devtmpfs", "/dev", "devtmpfs", ""),
    ("devpts", "/dev/pts", "devpts", "ptmxmode=0666"),
    ("tmpfs", "/dev/shm", "tmpfs", ""),
    ("tmpfs", "/run", "tmpfs", ""),
    ("tracefs", "/sys/kernel/tracing", "tracefs", ""),
    ("debugfs", "/sys/kernel/debug", "debugfs", ""),
];

/// Why the program could not be run.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// Something of the host's own.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// This is no process 1.
    #[error("`{INIT_COMMAND}` is what `ipirig lab` starts in the emulated host")]
    NotInit,
    /// The outer half cannot be reached.
    #[error("there is no port to the outside")]
    NoPort,
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> InitError {
    let what = what.into();
    move |source| InitError::Io { what, source }
}

/// Runs the job that the environment names and turns the host off. Returns only where this is not
/// process 1.
///
/// # Errors
/// [`InitError::NotInit`].
pub fn run() -> Result<Infallible, InitError> {
    if std::process::id() != 1 {
        return Err(InitError::NotInit);
    }
    let job = std::env::var_os(JOB).unwrap_or_default();
    if let Err(error) = host(Path::new(&job)) {
        log(&describe(&error));
    }
    loop {
        rustix::fs::sync();
        // Every emulator takes a restart for the end: the kernel's `reboot=t` makes it a triple fault.
        let _ = reboot(RebootCommand::Restart);
        // Process 1 must not end: the kernel would panic.
        thread::sleep(Duration::from_secs(1));
    }
}

fn host(job: &Path) -> Result<(), InitError> {
    // What is read before the mounts below may be hidden by them.
    let text = fs::read(job).map_err(failed(format!("read {}", job.display())));
    let changes = prepare()?;
    let port = Arc::new(Port::open()?);
    let run = text.and_then(|text| {
        let job: Job = serde_json::from_slice(&text)
            .map_err(|error| failed("make sense of the job")(error.into()))?;
        let code = program(&job, &port)?;
        if let Some(changes) = changes {
            changes::send(&changes, &job, &port)?;
        }
        Ok(code)
    });
    match run {
        Ok(code) => {
            port.send(&Frame::Exit(code));
            port.drain();
        }
        Err(error) => {
            port.send(&Frame::Failed(describe(&error)));
            port.drain();
            return Err(error);
        }
    }
    Ok(())
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Into the kernel's log, and so onto the console.
fn log(text: &str) {
    if let Ok(mut log) = File::options().write(true).open("/dev/kmsg") {
        // In one write, which makes one record. Nobody is left to tell if that fails.
        let _ = log.write_all(format!("<3>ipirig lab: {text}\n").as_bytes());
    }
}

/// Mounts what programs expect. Where the root cannot be written (a CD), it gets a layer that can;
/// what is written there is found at the place returned.
fn prepare() -> Result<Option<PathBuf>, InitError> {
    let root = statvfs("/").map_err(|e| failed("look at the root")(e.into()))?;
    let mut changes = None;
    if root.f_flag.contains(StatVfsMountFlags::RDONLY) {
        changes = Some(layer()?);
    }
    for (source, place, kind, options) in MOUNTS {
        if place == "/run" && changes.is_some() {
            continue;
        }
        // There may be no such directory, as in /sys/kernel without its file system; or it is there
        // in a file system mounted just now.
        let _ = fs::create_dir_all(place);
        let options = CString::new(options).unwrap_or_default();
        let mounted = mount(source, place, kind, MountFlags::empty(), Some(&*options));
        match mounted {
            // The kernel has done it (CONFIG_DEVTMPFS_MOUNT).
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(error) => return Err(failed(format!("mount {place}"))(error.into())),
        }
    }
    Ok(changes)
}

/// Lays a file system in memory over the root, and moves there.
fn layer() -> Result<PathBuf, InitError> {
    let none = CString::default();
    mount("tmpfs", "/run", "tmpfs", MountFlags::empty(), Some(&*none))
        .map_err(|e| failed("mount /run")(e.into()))?;
    let upper = Path::new(CHANGES);
    for dir in [CHANGES, "/run/work", "/run/root"] {
        fs::create_dir(dir).map_err(failed(format!("make {dir}")))?;
    }
    let options = format!("lowerdir=/,upperdir={CHANGES},workdir=/run/work");
    let options = CString::new(options).unwrap_or_default();
    mount(
        "overlay",
        "/run/root",
        "overlay",
        MountFlags::empty(),
        Some(&*options),
    )
    .map_err(|e| failed("lay memory over the root")(e.into()))?;
    // So that the changes are within reach below the new root.
    fs::create_dir_all("/run/root/run").map_err(failed("make /run"))?;
    mount(
        "/run",
        "/run/root/run",
        "",
        MountFlags::BIND,
        None::<&std::ffi::CStr>,
    )
    .map_err(|e| failed("mount /run")(e.into()))?;
    rustix::process::chroot("/run/root").map_err(|e| failed("go to the new root")(e.into()))?;
    rustix::process::chdir("/").map_err(|e| failed("go to the new root")(e.into()))?;
    Ok(upper.to_owned())
}

/// Runs the job's program to its end. Returns its exit code.
fn program(job: &Job, port: &Arc<Port>) -> Result<u8, InitError> {
    let path = job.program();
    let mut command = Command::new(&path);
    command
        .args(job.arguments())
        .env_clear()
        .envs(job.environment())
        .current_dir(job.directory())
        .stdin(Stdio::null())
        // Of its own, so that a signal reaches all of it and not us.
        .process_group(0);
    let mut pumps = vec![];
    let stdout = output(job.terminals.stdout, job.terminals)?;
    let stderr = output(job.terminals.stderr, job.terminals)?;
    command.stdout(stdout.writer).stderr(stderr.writer);
    let child = command
        .spawn()
        .map_err(failed(format!("start {}", path.display())))?;
    // Our copies of the writing ends, without which the readers see the end.
    drop(command);
    let group = Pid::from_child(&child);
    port.send(&Frame::Ready);
    pumps.push(pump(stdout.reader, port, Frame::Stdout)?);
    pumps.push(pump(stderr.reader, port, Frame::Stderr)?);
    listen(port, group)?;
    pulse(port)?;
    let status = reap(&child)?;
    // What it has left behind must not hold its output open. There may be nothing.
    let _ = kill_process_group(group, Signal::KILL);
    for pump in pumps {
        // A panic there is in the console.
        let _ = pump.join();
    }
    Ok(exit_code(status))
}

/// Where the program writes, and where we read that.
struct Stream {
    writer: Stdio,
    reader: File,
}

/// A pipe, or a terminal as large as the caller's.
fn output(terminal: bool, like: Terminals) -> Result<Stream, InitError> {
    if !terminal {
        let (reader, writer) = io::pipe().map_err(failed("make a pipe"))?;
        return Ok(Stream {
            writer: writer.into(),
            reader: OwnedFd::from(reader).into(),
        });
    }
    let make = || -> rustix::io::Result<(OwnedFd, OwnedFd)> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = openpt(flags)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let name = ptsname(&ours, vec![])?;
        let flags =
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
        let theirs = rustix::fs::open(&*name, flags, rustix::fs::Mode::empty())?;
        // The caller's terminal does what is to be done to a line's end.
        let mut modes = tcgetattr(&theirs)?;
        modes.output_modes.remove(OutputModes::OPOST);
        tcsetattr(&theirs, OptionalActions::Now, &modes)?;
        let size = Winsize {
            ws_row: like.rows,
            ws_col: like.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        tcsetwinsize(&theirs, size)?;
        Ok((ours, theirs))
    };
    let (ours, theirs) = make().map_err(|e| failed("make a terminal")(e.into()))?;
    Ok(Stream {
        writer: theirs.into(),
        reader: ours.into(),
    })
}

/// Sends what comes from `reader`, on a thread of its own.
fn pump(
    mut reader: File,
    port: &Arc<Port>,
    frame: fn(Vec<u8>) -> Frame,
) -> Result<JoinHandle<()>, InitError> {
    let port = Arc::clone(port);
    let work = move || {
        let mut buffer = vec![0; 1 << 16];
        // A terminal whose other end is closed is EIO.
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            let bytes = buffer.get(..length).unwrap_or_default();
            port.send(&frame(bytes.to_vec()));
        }
    };
    thread::Builder::new()
        .spawn(work)
        .map_err(failed("start a thread"))
}

/// Sends the program the signals that come from outside; ends it when nobody is there any more.
fn listen(port: &Arc<Port>, group: Pid) -> Result<(), InitError> {
    let port = Arc::clone(port);
    let work = move || {
        loop {
            let signal = match Frame::read(&mut &port.into) {
                Ok(Some(Frame::Signal(number))) => Signal::from_named_raw(number),
                // No other frame is sent here.
                Ok(Some(_)) => None,
                Ok(None) | Err(_) => {
                    let _ = kill_process_group(group, Signal::KILL);
                    return;
                }
            };
            if let Some(signal) = signal {
                // It may have ended.
                let _ = kill_process_group(group, signal);
            }
        }
    };
    thread::Builder::new()
        .spawn(work)
        .map(drop)
        .map_err(failed("start a thread"))
}

/// Says every now and then that programs still run here, for as long as they do.
fn pulse(port: &Arc<Port>) -> Result<(), InitError> {
    let port = Arc::clone(port);
    let work = move || {
        loop {
            port.send(&Frame::Alive);
            thread::sleep(PULSE);
        }
    };
    thread::Builder::new()
        .spawn(work)
        .map(drop)
        .map_err(failed("start a thread"))
}

/// Waits for the program's end, and for that of whatever is left to process 1 meanwhile.
fn reap(child: &Child) -> Result<ExitStatus, InitError> {
    let child = Pid::from_child(child);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == child => {
                return Ok(ExitStatus::from_raw(status.as_raw()));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(failed("wait for the program")(error.into())),
        }
    }
}

/// As shells have it.
fn exit_code(status: ExitStatus) -> u8 {
    let signal = || status.signal().map(|number| 128 + number);
    let code = status.code().or_else(signal).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_is_process_1() {
        let error = run().expect_err("a test is not");
        assert!(matches!(error, InitError::NotInit), "{error}");
    }

    #[test]
    fn a_signal_is_128_and_its_number() {
        let codes = [0, 4 << 8, 2, 9].map(|raw| exit_code(ExitStatus::from_raw(raw)));
        assert_eq!(codes, [0, 4, 130, 137]);
    }
}
