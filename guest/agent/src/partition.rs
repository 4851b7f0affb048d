//! A partition of isolated CPUs made at run time, by a cpuset: what `isolcpus=domain` does at boot
//! (Documentation/admin-guide/cgroup-v2.rst, "cpuset.cpus.partition").

use std::fs;
use std::path::Path;

use ipirig_abi::MAX_CPUS;
use ipirig_storms::StormError;
use ipirig_system::{During, Errno, Failure};

/// The directory below the mounted cgroup2.
const NAME: &str = "isolated";

/// Makes a partition of the CPUs whose bit is set in `cpus`, with the processes `pids` in it. `mount` mounts cgroup2.
/// What comes back is what the kernel then says of the partition: `isolated`.
pub(crate) fn make(
    root: &Path,
    cpus: u64,
    pids: &[i32],
    mount: impl Fn(&Path) -> Result<(), Errno>,
) -> Result<Vec<u8>, StormError> {
    let top = root.join("sys/fs/cgroup");
    if !top.join("cgroup.controllers").exists() {
        match mount(&top) {
            Err(Errno(libc::ENODEV | libc::ENOENT)) => {
                let what = "no CONFIG_CGROUPS: cgroup2 cannot be mounted on /sys/fs/cgroup";
                return Err(StormError::Lacking(what.to_owned()));
            }
            result => result.during(|| format!("mount cgroup2 on {}", top.display()))?,
        }
    }
    let controllers = top.join("cgroup.controllers");
    let controllers =
        fs::read_to_string(&controllers).during(|| format!("read {}", controllers.display()))?;
    if !controllers.split_whitespace().any(|name| name == "cpuset") {
        let what = "no CONFIG_CPUSETS: cgroup2 has no cpuset";
        return Err(StormError::Lacking(what.to_owned()));
    }
    let dir = top.join(NAME);
    write(&top.join("cgroup.subtree_control"), "+cpuset")?;
    match fs::create_dir(&dir) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        result => result.during(|| format!("create {}", dir.display()))?,
    }
    write(&dir.join("cpuset.cpus"), &list(cpus))?;
    // Before it is a partition: its CPUs are then taken from everybody who is not in it.
    for pid in pids {
        write(&dir.join("cgroup.procs"), &pid.to_string())?;
    }
    let state = dir.join("cpuset.cpus.partition");
    write(&state, "isolated")?;
    // A write that the kernel takes may leave the partition invalid, with the reason after the word.
    let says = fs::read_to_string(&state).during(|| format!("read {}", state.display()))?;
    match says.trim() {
        says @ "isolated" => Ok(says.into()),
        says => Err(Failure::new(format!(
            "the kernel does not isolate CPUs {} by a cpuset: it says `{says}`",
            list(cpus)
        ))
        .into()),
    }
}

/// The CPUs of a set as the kernel reads lists.
fn list(cpus: u64) -> String {
    let numbers = (0..MAX_CPUS).filter(|cpu| cpus >> cpu & 1 == 1);
    let numbers: Vec<String> = numbers.map(|cpu| cpu.to_string()).collect();
    numbers.join(",")
}

/// Writes to a file that must be there.
fn write(file: &Path, value: &str) -> Result<(), Failure> {
    let open = fs::OpenOptions::new().write(true).open(file);
    let written = open.and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()));
    written.during(|| format!("write {value} to {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    /// A directory like a mounted cgroup2 whose kernel has `controllers`, and leaves a partition as `state`.
    fn cgroups(controllers: &str, state: &str) -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let top = root.path().join("sys/fs/cgroup");
        fs::create_dir_all(top.join(NAME)).unwrap();
        fs::write(top.join("cgroup.controllers"), controllers).unwrap();
        fs::write(top.join("cgroup.subtree_control"), "").unwrap();
        for file in ["cpuset.cpus", "cgroup.procs"] {
            fs::write(top.join(NAME).join(file), "").unwrap();
        }
        // Longer than what is written: the rest is what a kernel would add.
        fs::write(top.join(NAME).join("cpuset.cpus.partition"), state).unwrap();
        (root, top.join(NAME))
    }

    #[test]
    fn cpus_and_tasks_are_in_the_partition_that_the_kernel_confirms() {
        let (root, dir) = cgroups("cpuset cpu\n", "member");
        let made = make(root.path(), 0b110, &[71, 72], |_| Err(Errno(libc::EIO)));
        assert_eq!(made.unwrap(), b"isolated");
        let read = |file| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(read("cpuset.cpus"), "1,2");
        // Each write goes to the beginning of what is a plain file here.
        assert_eq!(read("cgroup.procs"), "72");
    }

    #[test]
    fn a_partition_that_the_kernel_calls_invalid_is_an_error_in_its_words() {
        let (root, _) = cgroups(
            "cpuset\n",
            "isolated invalid (Cpu list in cpuset.cpus not exclusive)\n",
        );
        let failure = make(root.path(), 0b100, &[71], |_| Ok(())).unwrap_err();
        let StormError::Failed(failure) = failure else {
            panic!("{failure:?}");
        };
        assert_eq!(
            failure.to_string(),
            "the kernel does not isolate CPUs 2 by a cpuset: it says `isolated invalid (Cpu list in cpuset.cpus not \
             exclusive)`"
        );
    }

    #[test]
    fn a_kernel_without_cpusets_or_cgroups_is_lacking() {
        let lacking = |made: Result<Vec<u8>, StormError>| match made {
            Err(StormError::Lacking(what)) => what,
            other => panic!("{other:?}"),
        };
        let (root, _) = cgroups("cpu\n", "");
        let what = lacking(make(root.path(), 4, &[], |_| Ok(())));
        assert_eq!(what, "no CONFIG_CPUSETS: cgroup2 has no cpuset");
        let empty = tempfile::tempdir().unwrap();
        let what = lacking(make(empty.path(), 4, &[], |_| Err(Errno(libc::ENODEV))));
        assert!(what.starts_with("no CONFIG_CGROUPS"), "{what}");
    }
}
