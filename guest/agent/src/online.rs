//! The CPUs that the kernel left to us: with `maxcpus=1` it boots on one.
//!
//! The rig has it do so where the guest's kernel is emulated. Until the kernel has high-resolution timers,
//! each CPU that is up ticks a hundred times a second, idle or not; with many CPUs no time is left
//! for the boot.

use std::path::Path;

use ipirig_system::{During, Errno, Failure, setting};

/// Brings up what is not up of CPUs 1 to `cpus` - 1. A CPU whose kernel knows no such thing is passed over.
pub(crate) fn all(cpus: usize) -> Result<(), Failure> {
    all_below(Path::new("/"), cpus)
}

fn all_below(root: &Path, cpus: usize) -> Result<(), Failure> {
    for cpu in 1..cpus {
        let file = root.join(format!("sys/devices/system/cpu/cpu{cpu}/online"));
        // To bring up what is up does nothing.
        setting::write(&file, "1").during(|| format!("bring CPU {cpu} up"))?;
    }
    Ok(())
}

/// Takes `cpu` down and brings it up again: tasks that are bound to it lose that.
pub(crate) fn replug(root: &Path, cpu: u64) -> Result<(), Failure> {
    let file = root.join(format!("sys/devices/system/cpu/cpu{cpu}/online"));
    if !file.exists() {
        let what = format!("CPU {cpu} cannot be taken offline in this kernel");
        return Err(Failure::of(what, Errno(libc::ENOENT)));
    }
    for (value, doing) in [("0", "take"), ("1", "bring")] {
        setting::write(&file, value).during(|| format!("{doing} CPU {cpu} offline and back"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn cpus_but_the_first_are_brought_up() {
        let root = tempfile::tempdir().unwrap();
        let file = |cpu| {
            let dir = root.path().join(format!("sys/devices/system/cpu/cpu{cpu}"));
            fs::create_dir_all(&dir).unwrap();
            dir.join("online")
        };
        for cpu in [0, 1, 3, 4] {
            fs::write(file(cpu), "0").unwrap();
        }
        // CPU 2 cannot be taken down, and 4 is none of this machine.
        assert_eq!(all_below(root.path(), 4), Ok(()));
        let states = [0, 1, 3, 4].map(|cpu| fs::read_to_string(file(cpu)).unwrap());
        assert_eq!(states, ["0", "1", "1", "0"]);
        assert!(!file(2).exists());
    }

    #[test]
    fn a_cpu_that_was_taken_down_is_up_again_and_one_that_cannot_be_is_named() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("sys/devices/system/cpu/cpu2");
        fs::create_dir_all(&dir).unwrap();
        let error = replug(root.path(), 2).unwrap_err().to_string();
        let expected =
            "CPU 2 cannot be taken offline in this kernel: ENOENT (No such file or directory)";
        assert_eq!(error, expected);
        fs::write(dir.join("online"), "1").unwrap();
        assert_eq!(replug(root.path(), 2), Ok(()));
        assert_eq!(fs::read_to_string(dir.join("online")).unwrap(), "1");
    }

    #[test]
    fn a_cpu_that_does_not_come_up_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("sys/devices/system/cpu/cpu1/online");
        fs::create_dir_all(&file).unwrap();
        let error = all_below(root.path(), 2).unwrap_err().to_string();
        assert!(error.starts_with("bring CPU 1 up: "), "{error}");
    }
}
