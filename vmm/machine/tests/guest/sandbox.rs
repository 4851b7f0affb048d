//! Which threads are confined. What that means is tested in `ipirig-sandbox`.
#![expect(unsafe_code, reason = "the guest's assembler text")]

use std::fs;

use crate::Suite;
use crate::harness::Guest;
use crate::image::guest;

pub(crate) fn list(suite: &mut Suite) {
    let lacks = || (!ipirig_sandbox::available()).then(|| "no seccomp filters".to_owned());
    let reason = suite.no_kvm.clone().or_else(lacks);
    let name = "threads_of_vcpus_are_confined_unless_told_otherwise_and_no_other_is";
    suite.add(name.to_owned(), reason, || {
        assert_eq!(threads(true), ["1 2"]);
        assert_eq!(threads(false), ["0 0"]);
    });
}

guest!(REST, "call rt_setup\n call rt_ring\n jmp rt_rest");

/// For each vCPU's thread of a guest whether it has no new privileges and a filter (proc_pid_status(5)). No other
/// thread of ours has.
fn threads(sandbox: bool) -> Vec<String> {
    let mut guest = Guest::new(&REST).sandbox(sandbox).start();
    guest.rings();
    let mut vcpus = Vec::new();
    for task in fs::read_dir("/proc/self/task").unwrap() {
        let status = task.unwrap().path().join("status");
        // A thread may end meanwhile.
        let status = fs::read_to_string(status).unwrap_or_default();
        let field = |name| {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            value.unwrap_or_default().trim()
        };
        let rights = format!("{} {}", field("NoNewPrivs:"), field("Seccomp:"));
        match field("Name:") {
            name if name.starts_with("vcpu") => vcpus.push(rights),
            // A worker of KVM's, which the first KVM_RUN starts, has what its starter had. Or it has ended.
            name if name.starts_with("kvm-") || name.is_empty() => {}
            name => assert_eq!(rights, "0 0", "{name}"),
        }
    }
    guest.stop();
    vcpus
}
