//! Settings that keep periodic kernel work off isolated CPUs.
//!
//! `nohz_full=` and `isolcpus=` do most of it; this is what they leave to user space.

use std::fmt;
use std::path::Path;

use ipirig_system::{Errno, setting};

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

/// What does as much as that setting where the kernel refuses it: its server has nothing to do while no fair task is
/// queued. 6.12 charges the servers of all CPUs to the root domain that isolated CPUs stay in, also of those that have left
/// it, so that with more than 20 CPUs no other value has room there (EBUSY of dl_server_apply_params,
/// kernel/sched/deadline.c). 7.2 does not.
const FIRST: &str = "the CPU's deadline server, which could not be switched off, kicks it once a second for a fair task";

/// A file that was written to, or not.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Written {
    file: String,
    value: &'static str,
    reason: &'static str,
    /// The one CPU that it is about.
    cpu: Option<usize>,
    /// Why not.
    refused: Option<Errno>,
}

impl fmt::Display for Written {
    /// As [`ipirig_abi::KernelText::Setup`] has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            value,
            reason,
            refused,
            cpu: _,
        } = self;
        match refused {
            None => write!(f, "set\t{file}\t{value}\t{reason}"),
            Some(errno) => write!(f, "refused\t{file}\t{value}\t{reason}\t{errno}"),
        }
    }
}

/// Writes the settings below `root`. A file that this kernel lacks has no work to keep away.
pub(crate) fn apply(root: &Path, isolated: &[usize]) -> Vec<Written> {
    let all = SETTINGS
        .iter()
        .map(|it| (it.file.to_owned(), it.value, it.reason, None));
    let of_cpus = isolated.iter().flat_map(|&cpu| {
        let file = move |it: &CpuSetting| format!("{}{cpu}{}", it.before, it.after);
        CPU_SETTINGS
            .iter()
            .map(move |it| (file(it), it.value, it.reason, Some(cpu)))
    });
    let there = all
        .chain(of_cpus)
        .filter(|(file, ..)| root.join(file).exists());
    let written = there.map(|(file, value, reason, cpu)| Written {
        refused: setting::write(&root.join(&file), value)
            .err()
            .map(Errno::from),
        file: format!("/{file}"),
        value,
        reason,
        cpu,
    });
    written.collect()
}

/// Where a CPU's own setting was refused, has `put_first` put the task of that CPU before all fair tasks. Adds what came of it.
pub(crate) fn put_first(
    written: &mut Vec<Written>,
    put_first: impl Fn(usize) -> Result<(), Errno>,
) {
    let refused = written.iter().filter(|it| it.refused.is_some());
    let cpus: Vec<usize> = refused.filter_map(|it| it.cpu).collect();
    written.extend(cpus.into_iter().map(|cpu| Written {
        file: format!("the scheduling policy of the task on CPU {cpu}"),
        value: "SCHED_FIFO",
        reason: FIRST,
        cpu: Some(cpu),
        refused: put_first(cpu).err(),
    }));
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn file(root: &tempfile::TempDir, path: &str, text: &str) -> PathBuf {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn lines(root: &tempfile::TempDir, isolated: &[usize]) -> Vec<String> {
        let written = apply(root.path(), isolated);
        written.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_exists_is_written_and_told_what_is_missing_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let interval = file(&root, "proc/sys/vm/stat_interval", "1    ");
        assert_eq!(
            lines(&root, &[1]),
            ["set\t/proc/sys/vm/stat_interval\t86400\t\
                 a deferred work on each CPU folds its VM counters once a second (mm/vmstat.c)"]
        );
        assert_eq!(fs::read_to_string(interval).unwrap(), "86400");
    }

    #[test]
    fn settings_of_a_cpu_are_written_for_isolated_cpus_only() {
        let root = tempfile::tempdir().unwrap();
        let runtime = [0, 1, 2, 3].map(|cpu| {
            let path = format!("sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime");
            file(&root, &path, "5")
        });
        assert_eq!(lines(&root, &[1, 3]).len(), 2);
        let values = runtime.map(|file| fs::read_to_string(file).unwrap());
        assert_eq!(values, ["5", "0", "5", "0"]);
    }

    #[test]
    fn the_task_of_a_cpu_whose_setting_is_refused_is_put_before_fair_tasks() {
        let root = tempfile::tempdir().unwrap();
        let file_of = |cpu| format!("sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime");
        file(&root, &file_of(1), "5");
        // Opening a directory for writing fails for root too.
        for cpu in [2, 3] {
            fs::create_dir_all(root.path().join(file_of(cpu))).unwrap();
        }
        fs::create_dir_all(root.path().join("proc/sys/kernel/watchdog")).unwrap();
        let mut written = apply(root.path(), &[1, 2, 3]);
        assert_eq!(written.len(), 4);
        put_first(&mut written, |cpu| match cpu {
            2 => Ok(()),
            _ => Err(Errno(libc::EPERM)),
        });
        let added: Vec<String> = written.drain(4..).map(|it| it.to_string()).collect();
        let policy = "the scheduling policy of the task on CPU";
        assert_eq!(
            added,
            [
                format!("set\t{policy} 2\tSCHED_FIFO\t{FIRST}"),
                format!(
                    "refused\t{policy} 3\tSCHED_FIFO\t{FIRST}\tEPERM (Operation not permitted)"
                ),
            ]
        );
    }

    #[test]
    fn a_refused_write_names_the_file_the_error_and_what_now_disturbs() {
        let root = tempfile::tempdir().unwrap();
        // Opening a directory for writing fails for root too.
        fs::create_dir_all(root.path().join("proc/sys/kernel/watchdog")).unwrap();
        assert_eq!(
            lines(&root, &[]),
            [
                "refused\t/proc/sys/kernel/watchdog\t0\tthe lockup watchdog arms a timer on each watched CPU \
                 (kernel/watchdog.c)\tEISDIR (Is a directory)"
            ]
        );
    }
}
