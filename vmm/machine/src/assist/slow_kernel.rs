//! CPL 0 so slow that timer ticks eat the boot: a KVM that emulates the guest's kernel.
//!
//! At a million instructions a second one tick takes a good part of the period of the next, or all
//! of it. The remedy spaces them: a timer interrupt that finds its vCPU at work waits until some
//! time has passed since the last one. Linux catches up by itself, as it does after a long SMI. A
//! vCPU in HLT gets its interrupts on time but for the boot ([`crate::Machine::expect_boot`]), and so
//! does an isolated one in CPL 3: what is measured there stays true.

use super::quirk::{Finding, Quirk, Remedy};
use crate::probe::{ProbeError, Prober, Speed};

pub(super) const QUIRK: Quirk = Quirk {
    name: "slow-kernel",
    what: "CPL 0 runs at the speed of the CPU",
    probe,
};

/// Slower than this is no CPU of the last decades, but an emulator: even one that is interrupted
/// now and then stays far below.
const NATIVE_NS_PER_INSTRUCTION: f64 = 50.0;
/// How many times slower than CPL 3 an emulated CPL 0 is at least: hundreds of times, as each of its
/// instructions is interpreted. Where the host's CPU is itself emulated, both are equally slow.
const RATIO: f64 = 10.0;
/// Time between two ticks of a vCPU at work: far more than a tick takes, far less than
/// Linux's watchdogs bear.
const SLACK_NS: u64 = 100_000_000;
/// Start-up work for nobody: files in sysfs, together a good tenth of the instructions of a small
/// kernel's boot; and in a kernel with ftrace, the last two, which are four fifths of its boot.
/// `trace_eval_init` writes the values of enums into the events' `format` files, for programs that
/// read binary records. `ftrace_check_for_weak_functions` looks each function up by name, to leave
/// what a weak one left behind out of `available_filter_functions`. Tracing works without.
const SKIPPED: &str = "initcall_blacklist=param_sysfs_builtin_init,cacheinfo_sysfs_init,\
                       topology_sysfs_init,clockevents_init_sysfs,init_clocksource_sysfs,\
                       perf_event_sysfs_init,trace_eval_init,ftrace_check_for_weak_functions";

/// The kernel boots on one CPU, and whoever is PID 1 brings up the others, as the agent does. Until the
/// kernel has high-resolution timers each CPU that is up ticks a hundred times a second, idle or not:
/// 16 of them on two cores left no time for the boot. With few CPUs it is quicker to bring them up at
/// once.
const ONE_AT_FIRST: &str = "maxcpus=1";

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    Ok(match prober.speed()? {
        Ok(speed) => finding(speed),
        Err(outcome) => Finding {
            text: format!("cannot tell: {outcome}"),
            remedy: None,
        },
    })
}

fn finding(speed: Speed) -> Finding {
    if speed.kernel_ns < NATIVE_NS_PER_INSTRUCTION {
        return Finding {
            text: "does".into(),
            remedy: None,
        };
    }
    if speed.kernel_ns < speed.user_ns * RATIO {
        return Finding {
            text: "does, and CPL 3 is no quicker".into(),
            remedy: None,
        };
    }
    let per_second = Speed::millions(speed.kernel_ns);
    Finding {
        text: format!(
            "is emulated: {per_second:.1} million instructions a second, far fewer than CPL 3"
        ),
        remedy: Some(Remedy {
            text: "a vCPU at work gets its timer ticks 100 ms apart (not an isolated one in CPL \
                   3), sysfs and tracefs are left emptier, and of more than 4 vCPUs the kernel \
                   boots on one",
            cmdline: SKIPPED.to_owned(),
            crowded: ONE_AT_FIRST,
            timer_slack_ns: SLACK_NS,
            ..Remedy::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cpl_0_that_is_far_slower_than_cpl_3_is_emulated() {
        let found = |kernel_ns, user_ns| {
            let finding = finding(Speed {
                kernel_ns,
                user_ns,
                lasting_user_ns: 1.0,
            });
            let remedy = finding.remedy.map(|r| (r.timer_slack_ns, r.crowded));
            (finding.text, remedy)
        };
        // A CPU; one in the worst of moments; SVM emulated by QEMU; SVM in SVM in VMX; kvm_pvm.
        assert_eq!(found(0.2, 0.2), ("does".to_owned(), None));
        assert_eq!(found(40.0, 0.2), ("does".to_owned(), None));
        let slow = ("does, and CPL 3 is no quicker".to_owned(), None);
        assert_eq!(found(250.0, 200.0), slow);
        assert_eq!(found(60.0, 70.0), slow);
        let text = "is emulated: 0.4 million instructions a second, far fewer than CPL 3";
        assert_eq!(
            found(2500.0, 12.0),
            (text.to_owned(), Some((SLACK_NS, ONE_AT_FIRST)))
        );
    }
}
