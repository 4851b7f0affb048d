//! Results for tests, of every kind of verdict.

use ipirig_checks::check::{Check, Verdict};
use ipirig_scenario::Scenario;
use ipirig_scenario::plan::{Options, Plan};
use ipirig_verdict::result::{KernelInfo, RunResult};

/// A run of a built-in scenario that ended with these checks.
pub(crate) fn run(scenario: &str, checks: &[(&'static str, Verdict, &str)]) -> RunResult {
    run_with(Options::default(), scenario, checks)
}

fn run_with(
    options: Options,
    scenario: &str,
    checks: &[(&'static str, Verdict, &str)],
) -> RunResult {
    let scenario = Scenario::find(scenario).expect("a built-in scenario");
    let plan = Plan::new(scenario, options).expect("options that fit");
    let check = |(name, status, evidence): &(&'static str, Verdict, &str)| Check {
        name,
        status: *status,
        evidence: (*evidence).to_owned(),
    };
    let mut run = RunResult::new(&plan, checks.iter().map(check).collect());
    run.timing.total_s = 12.25;
    run
}

/// One run a verdict, the violated one with words that mean something to the formats, and the one that
/// is held for isolation only.
pub(crate) fn runs() -> Vec<RunResult> {
    use Verdict::{Error, Held, Skipped, Violated};
    let mut runs = vec![
        run_with(
            Options {
                isolation_only: true,
                ..Options::default()
            },
            "static-key-flip",
            &[
                ("isolated-ipis", Held, "vCPU 2: no IPI"),
                ("user-space-throughout", Held, "vCPU 2: CPL 3 at both ends"),
                ("storm-ran", Held, "101 operations"),
                ("danger-zone", Skipped, "no symbol `x`, so # of 100%"),
                ("nothing-lost", Held, "all 5 events recorded"),
            ],
        ),
        run(
            "vunmap-storm",
            &[
                (
                    "isolated-ipis",
                    Violated,
                    "vCPU 2: 101 <IPIs>, \"1\" & 'more'",
                ),
                ("storm-ran", Held, "100 rounds"),
                ("flag-order", Error, "a record of\ntwo lines|\r\nor three"),
            ],
        ),
        run(
            "vmap-stack",
            &[(
                "run",
                Error,
                "boot: Kernel panic - not syncing: VFS: \x1b[1mno root",
            )],
        ),
        run("set-memory", &[("run", Skipped, "/dev/kvm does not exist")]),
    ];
    runs[1].kernel = Some(KernelInfo {
        release: Some("6.12.1-test".to_owned()),
        package: Some("6.12.117-1".to_owned()),
        series: None,
        path: "vmlinux".to_owned(),
        initramfs: "initramfs".to_owned(),
        cmdline: "quiet ipi_deferral=off".to_owned(),
        module: Some(true),
        paging: None,
        setup: None,
    });
    runs[2].report = Some("vCPU 0: RIP 0x10\n  reboot: System halted\n".to_owned());
    runs
}
