//! Threads in the sandbox, each in a process of its own: this program, which is told what to do.
#![expect(
    clippy::unwrap_used,
    reason = "a fixture that fails should stop its test"
)]
#![expect(
    unsafe_code,
    reason = "some of what a sandbox refuses has no safe interface"
)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::{Condvar, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use ipirig_sandbox::{Sandbox, available};
use libtest_mimic::{Arguments, Failed, Trial};

/// The variable that tells a process what its thread is to do.
const DEED: &str = "IPIRIG_SANDBOX_DEED";

/// What a thread is not to do, and the system call that the process then names.
const FORBIDDEN: [(&str, fn(), &str); 5] = [
    (
        "listens",
        || drop(TcpListener::bind("127.0.0.1:0")),
        "socket (41)",
    ),
    (
        "maps-code",
        || map(libc::PROT_READ | libc::PROT_EXEC),
        "mmap (9)",
    ),
    ("makes-code-of-data", make_code, "mprotect (10)"),
    ("types-on-a-terminal", type_on_terminal, "ioctl (16)"),
    ("signals-others", signal_process_1, "tgkill (234)"),
];

/// What a thread is not to do either, while it has SIGSYS blocked.
const UNHEARD: (&str, fn()) = ("starts-a-thread", || {
    drop(thread::Builder::new().spawn(|| {}));
});

/// What a thread is to do, and is not hindered at.
const ALLOWED: [(&str, fn()); 8] = [
    ("allocates", allocate),
    ("shrinks-its-heap", shrink),
    ("opens-files-in-vain", open_in_vain),
    ("reads-files-only", read_only),
    ("waits", wait),
    ("signals-itself", signal_itself),
    ("prints", || println!("printed")),
    ("panics", || {
        drop(std::panic::catch_unwind(|| {
            std::panic::resume_unwind(Box::new(()))
        }));
    }),
];

fn map(protection: libc::c_int) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping of its own, which nothing uses.
    unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0) };
}

fn make_code() {
    let mut page = vec![0_u8; 8192];
    let start = page
        .as_mut_ptr()
        .wrapping_add(4096)
        .map_addr(|at| at & !4095);
    // SAFETY: a page of memory that is ours, and stays readable and writable.
    unsafe {
        libc::mprotect(
            start.cast(),
            4096,
            libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
        )
    };
}

/// Whoever has the terminal would be taken to have typed it.
fn type_on_terminal() {
    let byte = b'x';
    // SAFETY: the kernel reads one byte, a live local.
    unsafe { libc::ioctl(0, libc::TIOCSTI, &raw const byte) };
}

fn signal_process_1() {
    // SAFETY: signal 0 is none.
    unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) };
}

fn signal_itself() {
    // SAFETY: signal 0 is none.
    let done = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::gettid(), 0) };
    assert_eq!(done, 0);
}

/// By the heap, by mappings of its own, and growing.
fn allocate() {
    let mut all = Vec::new();
    for size in [16, 4096, 1 << 20, 64 << 20] {
        all.push(vec![1_u8; size]);
    }
    for part in &mut all {
        part.resize(part.len() * 2, 2);
    }
}

/// By what is too small for a mapping of its own, and more of it than the C library keeps.
fn shrink() {
    let all: Vec<Vec<u8>> = (0..10_000).map(|_| vec![1; 1000]).collect();
    drop(all);
}

fn refused(opened: io::Result<File>) -> bool {
    opened.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
}

fn open_in_vain() {
    assert!(refused(File::open("/proc/self/status")));
    assert!(refused(File::create("/dev/null")));
}

/// With backtraces.
fn read_only() {
    assert!(File::open("/proc/self/status").is_ok());
    assert!(refused(File::create("/dev/null")));
    assert!(refused(OpenOptions::new().write(true).open("/dev/null")));
    assert!(refused(
        OpenOptions::new().read(true).write(true).open("/dev/null")
    ));
}

fn wait() {
    thread::park_timeout(Duration::from_millis(1));
    thread::sleep(Duration::from_millis(1));
    let pair = (Mutex::new(()), Condvar::new());
    drop(
        pair.1
            .wait_timeout(pair.0.lock().unwrap(), Duration::from_millis(1)),
    );
    let (sender, receiver) = mpsc::channel::<()>();
    assert!(receiver.recv_timeout(Duration::from_millis(1)).is_err());
    drop(sender);
}

/// What is done in a process that this test has started: `deed` by a thread in the sandbox.
fn carry_out(deed: &str) {
    let forbidden = FORBIDDEN.iter().map(|(name, deed, _)| (*name, *deed));
    let (_, act) = forbidden
        .chain(ALLOWED)
        .chain([UNHEARD])
        .find(|(known, _)| *known == deed)
        .unwrap();
    let sandbox = Sandbox::new(deed == "reads-files-only").unwrap();
    let thread = thread::spawn(move || {
        sandbox.enter(7).unwrap();
        act();
    });
    thread.join().unwrap();
    // Only the thread was confined.
    let status = fs::read_to_string("/proc/self/status").unwrap();
    assert!(status.contains("NoNewPrivs:\t0"), "{status}");
    assert!(Command::new("true").status().unwrap().success());
    println!("whole");
}

fn process(deed: &str) -> Output {
    let program = std::env::current_exe().unwrap();
    Command::new(program).env(DEED, deed).output().unwrap()
}

fn ended(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// The process ends at once with the rig's code, and says by which call.
fn is_stopped(deed: &str, call: &str) -> Result<(), Failed> {
    let words = format!(
        "error: vCPU 7: its thread made the system call {call}, which its sandbox does not allow. \
         That is a bug of ipirig's, or a guest that broke out of it; --no-sandbox does without\n"
    );
    let (found, expected) = (ended(&process(deed)), (Some(3), String::new(), words));
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:?}").into())
    }
}

fn is_let_be(deed: &str, prints: &str) -> Result<(), Failed> {
    let found = ended(&process(deed));
    let expected = (Some(0), format!("{prints}whole\n"), String::new());
    if found == expected {
        Ok(())
    } else {
        Err(format!("{found:?}").into())
    }
}

fn main() {
    if let Ok(deed) = std::env::var(DEED) {
        return carry_out(&deed);
    }
    let mut trials = Vec::new();
    for (deed, _, call) in FORBIDDEN {
        let name = format!("a_thread_that_{}_is_stopped", deed.replace('-', "_"));
        trials.push(Trial::test(name, move || is_stopped(deed, call)));
    }
    for (deed, _) in ALLOWED {
        let name = format!("a_thread_that_{}_is_let_be", deed.replace('-', "_"));
        let prints = if deed == "prints" { "printed\n" } else { "" };
        trials.push(Trial::test(name, move || is_let_be(deed, prints)));
    }
    trials.push(Trial::test(
        "a_thread_that_starts_a_thread_ends_by_the_signal",
        || {
            let output = process(UNHEARD.0);
            let found = (output.status.signal(), ended(&output));
            let expected = (Some(libc::SIGSYS), (None, String::new(), String::new()));
            if found == expected {
                Ok(())
            } else {
                Err(format!("{found:?}").into())
            }
        },
    ));
    if !available() {
        eprintln!("ignored: this host's kernel has no seccomp filters");
        let ignored = trials
            .into_iter()
            .map(|trial| trial.with_ignored_flag(true));
        trials = ignored.collect();
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
