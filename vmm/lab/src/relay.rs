//! The outer half while a program runs: what the host sends goes where the program's own output
//! would have gone, and Ctrl-C goes to the program.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use ipirig_terminal::children::ends_with_us;
use ipirig_terminal::text;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, kill_process_group};

use crate::wire::{FilePart, Frame, FrameError};
use crate::{Ended, LabError};

/// Lines of the host's console that an error shows.
const CONSOLE_LINES: usize = 20;
/// How long an emulator whose host has said goodbye may take to end.
const GOODBYE: Duration = Duration::from_secs(10);
/// How often the host's silence and Ctrl-C are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// What a shell says of a program that Ctrl-C has ended.
const INTERRUPTED: u8 = 130;
/// SIGINT's number (signal(7)).
const SIGINT: i32 = 2;

/// An emulator that runs. It does not outlive this.
#[derive(Debug)]
pub(crate) struct Emulator {
    child: Child,
}

impl Emulator {
    /// Starts it, out of reach of the terminal's Ctrl-C.
    pub(crate) fn start(mut command: Command, shown: String) -> Result<Self, LabError> {
        use std::os::unix::process::CommandExt;
        ends_with_us(&mut command, Signal::KILL);
        let spawned = command.process_group(0).spawn();
        let child = spawned.map_err(|source| LabError::Spawn {
            program: shown,
            source,
        })?;
        Ok(Self { child })
    }

    /// Waits for its end, for a while.
    fn wait(&mut self) {
        let deadline = Instant::now() + GOODBYE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            // Bochs and QEMU have nothing to wait for but their own end.
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // With all that it has started: Debian's `bochs` is a script. Both fail if it has ended, which is
        // what is wanted.
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = kill_process_group(group, Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What a relay needs to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits<'a> {
    /// How long the host may take until the program starts.
    pub(crate) boot: Duration,
    /// How long a host that runs the program may say nothing, not even that it is alive. `None`: its seconds
    /// are so much longer than ours that nobody can tell.
    pub(crate) silence: Option<Duration>,
    /// Where the host's console is written.
    pub(crate) console: &'a Path,
    /// Becomes readable at Ctrl-C.
    pub(crate) interrupt: Option<BorrowedFd<'a>>,
}

/// Relays until the program has ended. `port`: reads and writes what the host sends and gets.
pub(crate) fn relay<P>(
    mut emulator: Emulator,
    port: P,
    mut to_host: impl Write,
    limits: Limits<'_>,
) -> Result<Ended, LabError>
where
    P: Read + Send + 'static,
{
    let frames = listen(port)?;
    let started = Instant::now();
    let mut running = false;
    // Of our own looks, and not by the clock: a machine that was asleep has not waited.
    let mut silence = Duration::ZERO;
    let mut interrupt = limits.interrupt;
    loop {
        let frame = match frames.recv_timeout(LOOK) {
            Ok(frame) => frame?,
            Err(RecvTimeoutError::Timeout) => {
                if interrupt.is_some_and(|event| is_readable(&event)) {
                    interrupt = None;
                    if !running {
                        return Ok(Ended { code: INTERRUPTED });
                    }
                    // A host that is gone by now is told of below.
                    let _ = Frame::Signal(SIGINT).write(&mut to_host);
                }
                if !running && started.elapsed() > limits.boot {
                    return Err(LabError::Boot {
                        seconds: limits.boot.as_secs(),
                        console: last_lines(limits.console),
                    });
                }
                silence += LOOK;
                if let Some(limit) = limits.silence.filter(|limit| running && silence > *limit) {
                    return Err(LabError::Silent {
                        seconds: limit.as_secs(),
                        console: last_lines(limits.console),
                    });
                }
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                emulator.wait();
                return Err(LabError::Died {
                    console: last_lines(limits.console),
                });
            }
        };
        silence = Duration::ZERO;
        match frame {
            Frame::Ready => running = true,
            Frame::Alive => {}
            Frame::Stdout(bytes) => pass_on(&mut io::stdout().lock(), &bytes)?,
            Frame::Stderr(bytes) => pass_on(&mut io::stderr().lock(), &bytes)?,
            Frame::File(part) => keep(&part)?,
            Frame::Exit(code) => {
                emulator.wait();
                return Ok(Ended { code });
            }
            Frame::Failed(reason) => return Err(LabError::Inside { reason }),
            Frame::Signal(_) => return Err(FrameError::Kind(b's').into()),
        }
    }
}

/// Reads frames on a thread of its own, which ends with the port.
fn listen(
    mut port: impl Read + Send + 'static,
) -> Result<Receiver<Result<Frame, FrameError>>, LabError> {
    // A program that prints faster than we can pass it on has to wait.
    let (sender, frames) = mpsc::sync_channel(64);
    thread::Builder::new()
        .name("lab-port".to_owned())
        .spawn(move || {
            loop {
                let frame = Frame::read(&mut port).transpose();
                let Some(frame) = frame else { return };
                let last = frame.is_err();
                if sender.send(frame).is_err() || last {
                    return;
                }
            }
        })
        .map_err(LabError::io("start a thread"))?;
    Ok(frames)
}

/// Writes to a stream of ours. A reader that has seen enough is no failure.
fn pass_on(to: &mut impl Write, bytes: &[u8]) -> Result<(), LabError> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(LabError::io("pass on what the program printed")(error))
        }
        _ => Ok(()),
    }
}

/// Writes what the program wrote there, where it cannot do so itself.
fn keep(part: &FilePart) -> Result<(), LabError> {
    let failed = || LabError::io(format!("write {}", part.path.display()));
    let file = if part.first {
        File::create(&part.path)
    } else {
        File::options().append(true).open(&part.path)
    };
    file.and_then(|mut file| file.write_all(&part.content))
        .map_err(failed())
}

fn is_readable(event: &impl AsFd) -> bool {
    let mut polled = [PollFd::new(event, PollFlags::IN)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    poll(&mut polled, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// The end of the host's console, without what only moves a cursor.
fn last_lines(console: &Path) -> String {
    let bytes = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = VecDeque::new();
    for line in text.lines() {
        let line: String = line.chars().filter(|c| text::is_shown(*c)).collect();
        if !line.trim().is_empty() {
            lines.push_back(line);
        }
        if lines.len() > CONSOLE_LINES {
            lines.pop_front();
        }
    }
    if lines.is_empty() {
        return "(it printed nothing)".to_owned();
    }
    lines.make_contiguous().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something that runs for as long as it is not ended.
    fn emulator() -> Emulator {
        let mut command = Command::new("sleep");
        command.arg("1000");
        Emulator::start(command, "sleep".to_owned()).expect("started")
    }

    fn limits(console: &Path) -> Limits<'_> {
        Limits {
            boot: Duration::from_secs(60),
            silence: None,
            console,
            interrupt: None,
        }
    }

    fn said(frames: &[Frame]) -> Vec<u8> {
        let mut bytes = vec![];
        for frame in frames {
            frame.write(&mut bytes).expect("written");
        }
        bytes
    }

    fn relayed(frames: &[Frame], console: &Path) -> Result<Ended, LabError> {
        let mut to_host = vec![];
        let port = io::Cursor::new(said(frames));
        let mut emulator = emulator();
        // It is not the one who ends here.
        let _ = emulator.child.kill();
        relay(emulator, port, &mut to_host, limits(console))
    }

    #[test]
    fn the_programs_exit_code_is_the_labs() {
        let frames = [Frame::Ready, Frame::Exit(4)];
        let ended = relayed(&frames, Path::new("/nonexistent")).expect("ended");
        assert_eq!(ended, Ended { code: 4 });
    }

    #[test]
    fn a_host_that_ends_early_is_an_error_with_the_last_lines_of_its_console() {
        let console = tempfile::NamedTempFile::new().expect("a file");
        fs::write(console.path(), "\x1b[0mone\r\n\n  \nKernel panic\n").expect("written");
        let error = relayed(&[Frame::Ready], console.path()).expect_err("died");
        assert_eq!(
            error.to_string(),
            "the emulated host ended before the program did; its console ends:\n\
             [0mone\nKernel panic"
        );
    }

    #[test]
    fn what_the_host_cannot_do_is_told() {
        let frames = [Frame::Failed("no such program".to_owned())];
        let error = relayed(&frames, Path::new("/nonexistent")).expect_err("failed");
        assert_eq!(error.to_string(), "in the emulated host: no such program");
    }

    #[test]
    fn files_come_in_parts_and_are_replaced_by_the_first() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("result.json");
        fs::write(&path, "an older one").expect("written");
        let part = |first, content: &[u8]| {
            Frame::File(FilePart {
                path: path.clone(),
                first,
                content: content.to_vec(),
            })
        };
        let frames = [part(true, b"{\"a\":"), part(false, b"1}"), Frame::Exit(0)];
        relayed(&frames, Path::new("/nonexistent")).expect("ended");
        assert_eq!(fs::read(&path).expect("there"), b"{\"a\":1}");
    }

    /// A port at which nothing is ever said.
    struct Silence(mpsc::Receiver<()>);

    impl Read for Silence {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(0)
        }
    }

    #[test]
    fn a_host_that_does_not_come_up_is_given_up_and_its_emulator_ended() {
        let (_open, silence) = mpsc::channel();
        let emulator = emulator();
        let pid = rustix::process::Pid::from_child(&emulator.child);
        let limits = Limits {
            boot: Duration::ZERO,
            ..limits(Path::new("/nonexistent"))
        };
        let error = relay(emulator, Silence(silence), io::sink(), limits).expect_err("too slow");
        assert!(
            matches!(error, LabError::Boot { seconds: 0, .. }),
            "{error}"
        );
        rustix::process::test_kill_process(pid).expect_err("it has ended");
    }

    #[test]
    fn a_host_that_falls_silent_is_given_up_and_its_emulator_ended() {
        let (port, mut host) = io::pipe().expect("a pipe");
        host.write_all(&said(&[Frame::Ready, Frame::Alive]))
            .expect("written");
        let emulator = emulator();
        let pid = rustix::process::Pid::from_child(&emulator.child);
        let limits = Limits {
            silence: Some(Duration::ZERO),
            ..limits(Path::new("/nonexistent"))
        };
        let error = relay(emulator, port, io::sink(), limits).expect_err("silent");
        assert!(
            matches!(error, LabError::Silent { seconds: 0, .. }),
            "{error}"
        );
        rustix::process::test_kill_process(pid).expect_err("it has ended");
    }

    #[test]
    fn an_emulator_that_is_a_script_ends_with_what_it_has_started() {
        let mut command = Command::new("sh");
        command
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(std::process::Stdio::piped());
        let mut emulator = Emulator::start(command, "sh".to_owned()).expect("started");
        let mut line = String::new();
        let stdout = emulator.child.stdout.take().expect("piped");
        io::BufRead::read_line(&mut io::BufReader::new(stdout), &mut line).expect("a line");
        let pid = line
            .trim()
            .parse()
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let pid = pid.expect("a process");
        drop(emulator);
        // It is nobody's child any more: whoever adopts it may take a moment to reap it.
        let gone = |_| {
            thread::sleep(Duration::from_millis(10));
            let state = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid()));
            state.map_or(true, |state| state.contains(") Z "))
        };
        assert!((0..1000).any(gone), "{pid:?} goes on");
    }

    #[test]
    fn ctrl_c_during_the_boot_ends_the_emulator_with_130() {
        let (_open, silence) = mpsc::channel();
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"!").expect("written");
        let limits = Limits {
            interrupt: Some(reader.as_fd()),
            ..limits(Path::new("/nonexistent"))
        };
        let ended = relay(emulator(), Silence(silence), io::sink(), limits).expect("ended");
        assert_eq!(ended, Ended { code: 130 });
    }

    #[test]
    fn ctrl_c_while_the_program_runs_is_its_own() {
        let (reader, mut writer) = io::pipe().expect("a pipe");
        writer.write_all(b"!").expect("written");
        let (port, mut host) = io::pipe().expect("a pipe");
        host.write_all(&said(&[Frame::Ready])).expect("written");
        let (mut heard, to_host) = io::pipe().expect("a pipe");
        let inside = thread::spawn(move || {
            let frame = Frame::read(&mut heard).expect("read");
            host.write_all(&said(&[Frame::Exit(130)])).expect("written");
            frame
        });
        let limits = Limits {
            interrupt: Some(reader.as_fd()),
            ..limits(Path::new("/nonexistent"))
        };
        let mut emulator = emulator();
        let _ = emulator.child.kill();
        let ended = relay(emulator, port, to_host, limits).expect("ended");
        assert_eq!(ended, Ended { code: 130 });
        assert_eq!(inside.join().expect("ended"), Some(Frame::Signal(2)));
    }
}
