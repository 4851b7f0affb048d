//! Which threads are confined. What that means is tested in `ipirig-sandbox`.
#![expect(unsafe_code, reason = "the guest's assembler text")]

use std::fs;

use crate::Suite;
use crate::harness::Guest;
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    let reason = suite
        .no_kvm
        .clone()
        .or_else(|| (!ipirig_sandbox::available()).then(|| "no seccomp filters".to_owned()));
    for (name, test) in [
        (
            "threads_of_vcpus_are_confined_and_no_other",
            confined as fn(),
        ),
        ("threads_of_vcpus_are_free_where_that_is_asked_for", free),
    ] {
        suite.add(name.to_owned(), reason.clone(), test);
    }
}

guest!(
    REST,
    "
    call rt_setup
    call rt_ring
    jmp rt_rest
    "
);

/// Names of this process' threads, with whether they have no new privileges and a filter (proc_pid_status(5)).
fn threads() -> Vec<(String, String)> {
    let mut threads = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let path = task.unwrap().path();
        // A thread may end meanwhile.
        let Ok(status) = fs::read_to_string(path.join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name));
            value.unwrap_or_default().trim().to_owned()
        };
        let rights = format!("{} {}", field("NoNewPrivs:"), field("Seccomp:"));
        threads.push((field("Name:"), rights));
    }
    threads
}

fn look(sandbox: bool, expected: &str) {
    let mut guest = Guest::new(&REST).cpus(1).sandbox(sandbox).start();
    guest.rings();
    let (vcpus, others): (Vec<_>, Vec<_>) = threads()
        .into_iter()
        .partition(|(name, _)| name.starts_with("vcpu"));
    assert_eq!(vcpus, [("vcpu0".to_owned(), expected.to_owned())]);
    assert!(!others.is_empty());
    // A worker of KVM's, which the first KVM_RUN starts, has what its starter had; it makes no system calls.
    let ours = others.iter().filter(|(name, _)| !name.starts_with("kvm-"));
    let confined = ours.filter(|(_, rights)| rights != "0 0");
    assert_eq!(confined.count(), 0, "{others:?}");
    guest.stop();
}

fn confined() {
    look(true, "1 2");
}

fn free() {
    look(false, "0 0");
}
