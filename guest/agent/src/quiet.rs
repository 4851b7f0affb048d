//! Settings that keep periodic kernel work off isolated CPUs.
//!
//! `nohz_full=` and `isolcpus=` do most of it; this is what they leave to user space.

use std::path::Path;

use ipirig_system::{During, Failure, setting};

/// One file below the root, what to write to it, and what that keeps away.
struct Setting {
    file: &'static str,
    value: &'static str,
    reason: &'static str,
}

const SETTINGS: &[Setting] = &[
    Setting {
        file: "proc/sys/vm/stat_interval",
        value: "86400",
        reason: "a deferred work on each CPU folds its VM counters once a second (mm/vmstat.c)",
    },
    Setting {
        file: "proc/sys/kernel/watchdog",
        value: "0",
        reason: "the lockup watchdog arms a timer on each watched CPU (kernel/watchdog.c)",
    },
    Setting {
        file: "sys/devices/system/machinecheck/machinecheck0/check_interval",
        value: "0",
        reason: "a timer on each CPU polls the machine-check banks (arch/x86/kernel/cpu/mce/core.c)",
    },
    Setting {
        file: "sys/kernel/mm/transparent_hugepage/enabled",
        value: "never",
        reason: "khugepaged interrupts every CPU when it collapses a page (mm/mmu_gather.c)",
    },
];

/// The same for each isolated CPU; `file` is `before`, the CPU's number, `after`.
struct CpuSetting {
    before: &'static str,
    after: &'static str,
    value: &'static str,
    reason: &'static str,
}

const CPU_SETTINGS: &[CpuSetting] = &[CpuSetting {
    before: "sys/kernel/debug/sched/fair_server/cpu",
    after: "/runtime",
    value: "0",
    reason: "the deadline server for fair tasks kicks the CPU once a second (kernel/sched/deadline.c, since 6.12)",
}];

/// Writes the settings. A file that this kernel lacks has no work to keep away; each refused write
/// comes back.
pub(crate) fn apply(isolated: &[usize]) -> Vec<Failure> {
    apply_below(Path::new("/"), isolated)
}

fn apply_below(root: &Path, isolated: &[usize]) -> Vec<Failure> {
    let each = SETTINGS
        .iter()
        .map(|it| write(&root.join(it.file), it.value, it.reason));
    let each_cpu = isolated.iter().flat_map(|cpu| {
        CPU_SETTINGS.iter().map(move |it| {
            let file = format!("{}{cpu}{}", it.before, it.after);
            write(&root.join(file), it.value, it.reason)
        })
    });
    each.chain(each_cpu).filter_map(Result::err).collect()
}

fn write(path: &Path, value: &str, reason: &str) -> Result<(), Failure> {
    setting::write(path, value)
        .during(|| format!("write {value} to {} (so {reason})", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_exists_is_written_what_is_missing_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("proc/sys/vm/stat_interval");
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, "1    ").unwrap();
        assert_eq!(apply_below(root.path(), &[1]), []);
        assert_eq!(fs::read_to_string(file).unwrap(), "86400");
    }

    #[test]
    fn settings_of_a_cpu_are_written_for_isolated_cpus_only() {
        let root = tempfile::tempdir().unwrap();
        let runtime = |cpu| {
            root.path().join(format!(
                "sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime"
            ))
        };
        for cpu in 0..4 {
            fs::create_dir_all(runtime(cpu).parent().unwrap()).unwrap();
            fs::write(runtime(cpu), "5").unwrap();
        }
        assert_eq!(apply_below(root.path(), &[1, 3]), []);
        let values = [0, 1, 2, 3].map(|cpu| fs::read_to_string(runtime(cpu)).unwrap());
        assert_eq!(values, ["5", "0", "5", "0"]);
    }

    #[test]
    fn a_refused_write_names_the_file_the_error_and_what_now_disturbs() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("proc/sys/kernel/watchdog");
        // Opening a directory for writing fails for root too.
        fs::create_dir_all(&file).unwrap();
        let said: Vec<String> = apply_below(root.path(), &[])
            .iter()
            .map(Failure::to_string)
            .collect();
        let expected = format!(
            "write 0 to {} (so the lockup watchdog arms a timer on each watched CPU \
             (kernel/watchdog.c)): EISDIR (Is a directory)",
            file.display()
        );
        assert_eq!(said, [expected]);
    }
}
