//! The file systems that the agent and its commands read.

use std::ffi::{CStr, CString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use ipirig_system::{During, Errno, Failure, sys};

/// Mounts devtmpfs: before anything else, as the mailbox and the doorbell are devices.
pub(crate) fn devices() -> Result<(), Failure> {
    mount(c"devtmpfs", c"/dev")
}

/// Mounts the rest.
pub(crate) fn kernel() -> Result<(), Failure> {
    mount(c"proc", c"/proc")?;
    mount(c"sysfs", c"/sys")?;
    match attempt(c"debugfs", c"/sys/kernel/debug") {
        // A kernel without debugfs, or with debugfs=off, has no counters to show. It can still
        // be tested.
        Err(Errno(libc::ENODEV | libc::ENOENT | libc::EPERM)) => Ok(()),
        result => result.during(|| describe(c"debugfs", c"/sys/kernel/debug")),
    }
}

/// Mounts tracefs, which the storms that trace need.
pub(crate) fn tracefs(target: &Path) -> Result<(), Errno> {
    attempt_at(c"tracefs", target)
}

/// Mounts cgroup2, which partitions of CPUs need.
pub(crate) fn cgroup2(target: &Path) -> Result<(), Errno> {
    attempt_at(c"cgroup2", target)
}

fn attempt_at(kind: &CStr, target: &Path) -> Result<(), Errno> {
    let target = CString::new(target.as_os_str().as_bytes()).map_err(|_| Errno(libc::EINVAL))?;
    attempt(kind, &target)
}

fn mount(kind: &CStr, target: &CStr) -> Result<(), Failure> {
    match attempt(kind, target) {
        Err(Errno(libc::ENOENT)) => {
            let path = target.to_string_lossy();
            fs::create_dir_all(Path::new(&*path))
                .during(|| format!("create the directory {path}"))?;
            attempt(kind, target).during(|| describe(kind, target))
        }
        result => result.during(|| describe(kind, target)),
    }
}

fn attempt(kind: &CStr, target: &CStr) -> Result<(), Errno> {
    match sys::mount(kind, target) {
        // Mounted already, by the kernel or by another init.
        Err(Errno(libc::EBUSY)) => Ok(()),
        result => result,
    }
}

fn describe(kind: &CStr, target: &CStr) -> String {
    format!(
        "mount {} on {}",
        kind.to_string_lossy(),
        target.to_string_lossy()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_mount_names_the_file_system_the_place_and_the_error() {
        let failure = mount(c"no-such-fs", c"/").unwrap_err().to_string();
        // ENODEV for root, EPERM for anyone else.
        let expected = ["ENODEV (No such device)", "EPERM (Operation not permitted)"]
            .map(|error| format!("mount no-such-fs on /: {error}"));
        assert!(expected.contains(&failure), "{failure}");
    }
}
