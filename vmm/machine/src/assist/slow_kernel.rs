//! CPL 0 so slow that timer ticks eat the boot: a KVM that emulates the guest's kernel.
//!
//! At a million instructions a second one tick takes a good part of the period of the next, or all
//! of it. The remedy spaces them: a timer interrupt that finds its vCPU at work waits until some
//! time has passed since the last one. Linux catches up by itself, as it does after a long SMI. A
//! vCPU in HLT gets its interrupts on time but for the boot ([`crate::Machine::expect_boot`]), and so
//! does an isolated one in CPL 3: what is measured there stays true.

use std::time::Instant;

use super::{Finding, Quirk, Remedy};
use crate::probe::{Outcome, ProbeError, Prober};

pub(super) const QUIRK: Quirk = Quirk {
    name: "slow-kernel",
    what: "CPL 0 runs at the speed of the CPU",
    probe,
};

/// `mov ecx, LOOPS; 1: dec ecx; jnz 1b`.
const CODE: &[u8] = &[0xb9, 0xa0, 0x0f, 0x00, 0x00, 0xff, 0xc9, 0x75, 0xfc];
const LOOPS: u32 = 4000;
/// Slower than this is no CPU of the last decades, but an emulator: even one that is interrupted
/// now and then stays far below.
const NATIVE_NS_PER_INSTRUCTION: u128 = 50;
const TRIES: usize = 3;
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
    let mut best = u128::MAX;
    for _ in 0..TRIES {
        let mut guest = prober.prepare_ring0(CODE)?;
        let start = Instant::now();
        match guest.run()? {
            Outcome::Halted => best = best.min(start.elapsed().as_nanos()),
            other => {
                return Ok(Finding {
                    text: format!("cannot tell: {other}"),
                    remedy: None,
                });
            }
        }
    }
    let instructions = u128::from(LOOPS) * 2;
    if best / instructions < NATIVE_NS_PER_INSTRUCTION {
        return Ok(Finding {
            text: "does".into(),
            remedy: None,
        });
    }
    let per_second = instructions as f64 * 1e3 / best as f64;
    Ok(Finding {
        text: format!("is emulated: {per_second:.1} million instructions a second"),
        remedy: Some(Remedy {
            text: "a vCPU at work gets its timer ticks 100 ms apart (not an isolated one in CPL \
                   3), sysfs and tracefs are left emptier, and of more than 4 vCPUs the kernel \
                   boots on one",
            cmdline: SKIPPED.to_owned(),
            crowded: ONE_AT_FIRST,
            timer_slack_ns: SLACK_NS,
            ..Remedy::default()
        }),
    })
}
