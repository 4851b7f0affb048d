//! Runs the command that the rig wants observed: a program of the guest, or a load of our own.
//!
//! What it prints goes to a file, not to the console: a byte there is work for the kernel, on the
//! CPU that prints.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, PipeWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ipirig_abi::observe::{COMMAND_FILE, LOAD, OUTPUT_FILE, SEARCH, words};
use ipirig_abi::{Ending, TEXT_LEN};

use ipirig_storms::Interfaces;
use ipirig_storms::load;
use ipirig_system::{
    During, Errno, Failure, process,
    sys::{self, Fork},
};

/// What became of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Executed {
    /// How it ended.
    pub(crate) ending: Ending,
    /// Its exit code, or the signal's number.
    pub(crate) code: u64,
    /// Bytes that it printed.
    pub(crate) printed: u64,
}

/// How long a load that is told to end may take to finish what it is at: to bring up a CPU, on a slow host.
const GRACE: Duration = Duration::from_secs(5);

/// How often it is looked whether the command is to be stopped.
const LOOK: Duration = Duration::from_millis(250);

/// Runs the command of [`COMMAND_FILE`] for no longer than `limit`, and no longer than it is not to `stop`.
pub(crate) fn execute(
    interfaces: &Interfaces<'_>,
    limit: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<Executed, Failure> {
    let root = interfaces.root;
    let file = root.join(COMMAND_FILE);
    let text = fs::read(&file).during(|| format!("read {}", file.display()))?;
    let arguments = words(&text)
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| Failure::new("a word of the command has a NUL in it"))?;
    let Some(first) = arguments.first() else {
        return Err(Failure::new(format!("{} has no command", file.display())));
    };
    let first = first.to_string_lossy().into_owned();
    // Programs expect it.
    let tmp = root.join("tmp");
    fs::create_dir_all(&tmp).during(|| format!("create the directory {}", tmp.display()))?;
    let path = root.join(OUTPUT_FILE);
    // Appended to: two programs that print must not overwrite each other.
    let mut options = OpenOptions::new();
    let output = options.create(true).append(true).open(&path);
    let output = output
        .and_then(|file| file.set_len(0).map(|()| file))
        .during(|| format!("create {}", path.display()))?;

    let job = if first == LOAD {
        Job::Load(arguments)
    } else {
        Job::Program(find(root, &first)?, arguments)
    };
    let pid = match start(interfaces, &job, &output) {
        // The file is there: it was looked for. So it is what the file asks for that is not.
        Err(errno @ Errno(libc::ENOENT)) => {
            let what = format!(
                "start {first}, whose interpreter or dynamic loader is not in the guest (is it \
                 linked statically?)"
            );
            return Err(Failure::of(what, errno));
        }
        started => started.during(|| format!("start {first}"))?,
    };
    let grace = match job {
        Job::Load(_) => GRACE,
        Job::Program(..) => Duration::ZERO,
    };
    let (ending, code) =
        await_end(pid, limit, grace, stop).during(|| format!("wait for {first}"))?;
    let printed = output.metadata().map_or(0, |meta| meta.len());
    Ok(Executed {
        ending,
        code,
        printed,
    })
}

/// What the last command printed, from byte `from` on, as much as the mailbox's text takes.
pub(crate) fn output(root: &Path, from: u64) -> Result<Vec<u8>, Failure> {
    let path = root.join(OUTPUT_FILE);
    let mut text = Vec::with_capacity(TEXT_LEN);
    File::open(&path)
        .and_then(|mut file| {
            file.seek(SeekFrom::Start(from))?;
            file.take(TEXT_LEN as u64).read_to_end(&mut text)
        })
        .during(|| format!("read {}", path.display()))?;
    Ok(text)
}

enum Job {
    Program(PathBuf, Vec<CString>),
    Load(Vec<CString>),
}

/// The program of this name, as execvp(3) would find it.
fn find(root: &Path, name: &str) -> Result<PathBuf, Failure> {
    let below = |dir: &str| root.join(dir.trim_start_matches('/')).join(name);
    let places: Vec<PathBuf> = if name.contains('/') {
        vec![root.join(name.trim_start_matches('/'))]
    } else {
        SEARCH.map(below).to_vec()
    };
    let found = places.into_iter().find(|path| path.is_file());
    found.ok_or_else(|| {
        Failure::of(
            format!(
                "find {name} in the guest, which has only its initramfs and what --file and --root bring"
            ),
            Errno(libc::ENOENT),
        )
    })
}

/// Starts the job in a process of its own; its id.
fn start(interfaces: &Interfaces<'_>, job: &Job, output: &File) -> Result<i32, Errno> {
    // Closes by itself when the program begins; else it carries the error.
    let (mut reader, writer) = io::pipe()?;
    let pid = match sys::fork()? {
        Fork::Child => become_job(interfaces, job, output, writer),
        Fork::Parent(pid) => pid,
    };
    drop(writer);
    process::let_lead_group(pid);
    let mut error = [0; 4];
    match reader.read_exact(&mut error) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(pid),
        Err(error) => Err(error.into()),
        Ok(()) => {
            sys::wait(pid)?;
            Err(Errno(i32::from_le_bytes(error)))
        }
    }
}

fn become_job(interfaces: &Interfaces<'_>, job: &Job, output: &File, mut failed: PipeWriter) -> ! {
    let prepared = process::lead_group()
        .and_then(|()| process::forget_handlers())
        .and_then(|()| sys::confine(interfaces.housekeeping))
        .and_then(|()| process::redirect(output));
    let errno = match (prepared, job) {
        (Err(errno), _) => errno,
        (Ok(()), Job::Load(arguments)) => {
            drop(failed);
            sys::exit(load::main(
                arguments.get(1..).unwrap_or_default(),
                interfaces,
            ))
        }
        (Ok(()), Job::Program(path, arguments)) => {
            let program = CString::new(path.as_os_str().as_encoded_bytes()).unwrap_or_default();
            let environment = [format!("PATH={}", SEARCH.join(":")), "HOME=/".to_owned()]
                .map(|variable| CString::new(variable).unwrap_or_default());
            process::execute(&program, arguments, &environment)
        }
    };
    // If this fails too, the exit code is all that is left.
    let _ = failed.write_all(&errno.0.to_le_bytes());
    sys::exit(127)
}

/// Waits for the job. When its time is over it is told to end, if it has some `grace`, and killed after that. Nothing of
/// its group is left.
fn await_end(
    pid: i32,
    limit: Duration,
    grace: Duration,
    stop: &dyn Fn() -> bool,
) -> Result<(Ending, u64), Errno> {
    let watched = process::watch(pid)?;
    let deadline = Instant::now() + limit;
    // How its time came to its end, and how long it may go on.
    let mut over: Option<(Ending, Instant)> = None;
    loop {
        if let Some(status) = sys::ended(pid)? {
            process::kill_group(pid);
            return Ok(match over {
                Some((ending, _)) => (ending, libc::SIGTERM as u64),
                None if libc::WIFEXITED(status) => {
                    (Ending::Exited, libc::WEXITSTATUS(status) as u64)
                }
                None => (Ending::Signalled, libc::WTERMSIG(status) as u64),
            });
        }
        let now = Instant::now();
        let until = match over {
            Some((ending, until)) if now >= until => {
                process::kill_group(pid);
                sys::wait(pid)?;
                return Ok((ending, libc::SIGKILL as u64));
            }
            Some((_, until)) => until,
            None => {
                let ending = match (stop(), now >= deadline) {
                    (true, _) => Some(Ending::Stopped),
                    (false, true) => Some(Ending::TimeUp),
                    (false, false) => None,
                };
                over = ending.map(|ending| (ending, now + grace));
                if over.is_some() && !grace.is_zero() {
                    process::end_group(pid);
                }
                over.map_or(deadline, |(_, until)| until)
            }
        };
        process::sleep_for(&watched, until.saturating_duration_since(now).min(LOOK));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use ipirig_storms::Symbols;

    /// A root with this command, and with a program `/bin/job` that is this shell script.
    fn root(command: &[u8], script: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in ["ipirig", "bin"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join(COMMAND_FILE), command).unwrap();
        let mut options = OpenOptions::new();
        options.create(true).write(true).mode(0o755);
        let mut file = options.open(dir.path().join("bin/job")).unwrap();
        file.write_all(script.as_bytes()).unwrap();
        dir
    }

    fn run(root: &Path, limit_ms: u64) -> Result<(Executed, String), String> {
        run_until(root, limit_ms, &|| false)
    }

    fn run_until(
        root: &Path,
        limit_ms: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<(Executed, String), String> {
        run_on(&[0], root, limit_ms, stop)
    }

    fn run_on(
        housekeeping: &[usize],
        root: &Path,
        limit_ms: u64,
        stop: &dyn Fn() -> bool,
    ) -> Result<(Executed, String), String> {
        let interfaces = Interfaces {
            triggers: None,
            housekeeping,
            symbols: Symbols::default(),
            root,
            mount_tracefs: |_| Err(Errno(libc::ENODEV)),
        };
        let executed = execute(&interfaces, Duration::from_millis(limit_ms), stop)
            .map_err(|failure| failure.to_string().replace(&root.display().to_string(), ""))?;
        let text = output(root, 0).unwrap();
        Ok((executed, String::from_utf8(text).unwrap()))
    }

    fn executed(ending: Ending, code: u64, printed: u64) -> Executed {
        Executed {
            ending,
            code,
            printed,
        }
    }

    #[test]
    fn a_program_gets_its_arguments_and_its_code_and_output_come_back() {
        let root = root(
            b"job\0one two\0",
            "#!/bin/sh\necho \"$1\"; echo bad >&2; exit 3\n",
        );
        let expected = (executed(Ending::Exited, 3, 12), "one two\nbad\n".to_owned());
        assert_eq!(run(root.path(), 60_000), Ok(expected));
        assert_eq!(output(root.path(), 8), Ok(b"bad\n".into()));
    }

    #[test]
    fn a_program_whose_time_is_over_is_killed_with_all_that_it_started() {
        let root = root(b"/bin/job\0", "#!/bin/sh\nsleep 1000 & echo $!; wait\n");
        let (ended, text) = run(root.path(), 300).unwrap();
        assert_eq!((ended.ending, ended.code), (Ending::TimeUp, 9));
        let child: i32 = text.trim().parse().unwrap();
        let gone = || {
            let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        };
        // It has been sent the signal; /proc is to be asked until it is dead.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !gone() {
            assert!(Instant::now() < deadline, "{child} lives");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_program_that_is_to_be_stopped_is_killed_before_its_time() {
        let root = root(b"/bin/job\0", "#!/bin/sh\nsleep 1000\n");
        let looks = std::cell::Cell::new(0);
        let (ended, _) =
            run_until(root.path(), 600_000, &|| looks.replace(looks.get() + 1) > 0).unwrap();
        assert_eq!(ended, executed(Ending::Stopped, 9, 0));
    }

    #[test]
    fn a_load_whose_time_is_over_brings_up_the_cpu_that_it_took_down_before_it_ends() {
        let root = root(b"load\0hotplug\0", "");
        let cpu = root.path().join("sys/devices/system/cpu/cpu1");
        fs::create_dir_all(&cpu).unwrap();
        // A write to it waits for somebody who reads.
        let online = cpu.join("online");
        let made = std::process::Command::new("mkfifo").arg(&online).status();
        assert!(made.unwrap().success());
        let (is_down, told) = (AtomicBool::new(false), AtomicBool::new(false));
        let (ended, states) = std::thread::scope(|scope| {
            let states = scope.spawn(|| {
                let mut states = String::new();
                while !states.ends_with('.') {
                    // It is down, not for the first time: at first each load is tried.
                    if states.len() > 2 && states.ends_with('0') {
                        is_down.store(true, Ordering::Relaxed);
                        while !told.load(Ordering::Relaxed) {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        // Until the load has been told.
                        std::thread::sleep(LOOK);
                    }
                    let mut file = File::open(&online).unwrap();
                    file.read_to_string(&mut states).unwrap();
                }
                states
            });
            let stop = || {
                let stop = is_down.load(Ordering::Relaxed);
                told.store(stop, Ordering::Relaxed);
                stop
            };
            let ended = run_on(&[0, 1], root.path(), 600_000, &stop);
            // For the reader, who waits for another state.
            told.store(true, Ordering::Relaxed);
            fs::write(&online, ".").unwrap();
            (ended, states.join().unwrap())
        });
        let expected = executed(Ending::Stopped, 15, 0);
        assert_eq!(ended, Ok((expected, String::new())));
        assert!(states.ends_with("01."), "{states}");
    }

    #[test]
    fn a_program_that_dies_of_a_signal_says_which() {
        let root = root(b"job\0", "#!/bin/sh\nkill -11 $$\n");
        let expected = executed(Ending::Signalled, 11, 0);
        assert_eq!(
            run(root.path(), 60_000).map(|(ended, _)| ended),
            Ok(expected)
        );
    }

    #[test]
    fn what_cannot_be_started_is_named() {
        let missing = root(b"nonesuch\0", "");
        assert_eq!(
            run(missing.path(), 1),
            Err(
                "find nonesuch in the guest, which has only its initramfs and what --file and \
                 --root bring: \
                 ENOENT (No such file or directory)"
                    .to_owned()
            )
        );
        let broken = root(b"job\0", "#!/nonesuch\n");
        assert_eq!(
            run(broken.path(), 1),
            Err(
                "start job, whose interpreter or dynamic loader is not in the guest (is it linked \
                 statically?): ENOENT (No such file or directory)"
                    .to_owned()
            )
        );
        let empty = root(b"", "");
        assert_eq!(
            run(empty.path(), 1),
            Err("/ipirig/observe has no command".to_owned())
        );
    }
}
