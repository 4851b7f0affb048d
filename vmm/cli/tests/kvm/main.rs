//! Whole runs on real KVM. Where a machine cannot run, each test is listed as ignored with the
//! reason; none passes unrun. Needs the reference guest, which the first run builds.

mod blame;
mod catalogue;
mod cross_check;
mod entries;
mod machines;
mod observe;
mod second_opinion;
mod snapshots;
mod sweep;
mod tiny;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

fn main() {
    let mut args = Arguments::from_args();
    // Guests want the cores for themselves: side by side they would time each other out.
    args.test_threads = Some(1);
    let unless = |lacking: &Option<String>, trial: Trial| {
        trial
            .with_kind(lacking.clone().unwrap_or_default())
            .with_ignored_flag(lacking.is_some())
    };
    let trial = |lacking: &Option<String>, &(name, test): &(&str, Test)| {
        unless(lacking, Trial::test(name, test))
    };
    let (no_kvm, no_root) = (no_kvm(), no_root());
    let on_kvm = ON_KVM.iter().map(|test| trial(&no_kvm, test));
    let stock = observe::STOCK.iter().map(|&(version, name)| {
        let lacking = no_kvm.clone().or_else(|| observe::no_stock(version));
        unless(&lacking, Trial::test(name, move || observe::stock(version)))
    });
    let asked_for = no_kvm.clone().unwrap_or_else(second_opinion::asked_for);
    let traced = second_opinion::TESTS
        .iter()
        .map(|test| trial(&Some(asked_for.clone()), test));
    let long = snapshots::LONG
        .iter()
        .map(|test| trial(&Some(no_kvm.clone().unwrap_or_else(snapshots::long)), test));
    let without = WITHOUT_KVM.iter().map(|test| trial(&no_root, test));
    libtest_mimic::run(
        &args,
        on_kvm
            .chain(stock)
            .chain(traced)
            .chain(long)
            .chain(without)
            .collect(),
    )
    .exit();
}

/// Why no guest can run here.
fn no_kvm() -> Option<String> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.err().map(|error| format!("no /dev/kvm: {error}"))
}

/// Why KVM cannot be taken away from a process here.
fn no_root() -> Option<String> {
    let tried = Command::new("unshare")
        .args(["--mount", "true"])
        .stderr(Stdio::null())
        .status();
    let can = tried.is_ok_and(|status| status.success());
    (!can).then(|| "needs root and unshare(1)".to_owned())
}

/// MiB that a run has by default. With `--kernel` it has more, which takes longer to initialise.
const REFERENCE_MEMORY: &str = "128";

type Test = fn() -> Result<(), Failed>;

const ON_KVM: &[(&str, Test)] = &[
    ("every_scenario_is_held_in_one_table", catalogue::held),
    (
        "without_deferral_what_may_be_deferred_is_violated_and_what_must_come_is_held",
        catalogue::without_deferral,
    ),
    (
        "each_way_into_the_kernel_catches_up_before_ordinary_code",
        entries::matrix,
    ),
    ("an_entry_is_listed_with_its_marks", entries::listing),
    (
        "a_sweep_hits_each_instruction_of_a_path_and_holds",
        sweep::a_path,
    ),
    (
        "a_sweep_of_what_there_is_not_is_a_usage_error",
        sweep::misspelt,
    ),
    (
        "a_kernel_without_symbols_is_skipped_and_held_for_isolation_only",
        entries::stripped,
    ),
    (
        "a_kernel_without_symbols_is_judged_by_its_vmlinux_and_names_its_own_callers",
        entries::stood_in_for,
    ),
    ("kernels_with_bugs_are_noticed", entries::mutants),
    (
        "a_mutant_misspelt_gets_a_suggestion",
        entries::unknown_mutant,
    ),
    ("static_key_flip_is_held_with_two_vcpus", || {
        held("static-key-flip", &["--vcpus", "2"]).map(drop)
    }),
    ("vunmap_storm_is_held_with_two_vcpus", || {
        held("vunmap-storm", &["--vcpus", "2"]).map(drop)
    }),
    // More than four boot one after the other on a slow host.
    ("static_key_flip_is_held_with_six_vcpus", || {
        held("static-key-flip", &["--vcpus", "6"]).map(drop)
    }),
    ("static_key_flip_is_held_on_xapic", || {
        held("static-key-flip", &["--apic", "xapic"]).map(drop)
    }),
    ("vunmap_storm_is_held_on_xapic", || {
        held("vunmap-storm", &["--apic", "xapic"]).map(drop)
    }),
    (
        "a_stock_static_key_flip_is_violated_with_three_ipis_a_flip",
        || violated("static-key-flip", 3),
    ),
    (
        "a_stock_vunmap_storm_is_violated_with_an_ipi_a_round",
        || violated("vunmap-storm", 1),
    ),
    ("every_ipi_of_a_stock_static_key_flip_has_its_cause", || {
        blame::every_ipi_has_its_cause("static-key-flip", "static key", "jump_label_update")
    }),
    ("every_ipi_of_a_stock_vunmap_storm_has_its_cause", || {
        blame::every_ipi_has_its_cause("vunmap-storm", "vunmap", "vm_unmap_aliases")
    }),
    (
        "blame_tells_who_and_why_live_or_later",
        blame::by_the_command,
    ),
    (
        "without_stacks_nobody_is_blamed",
        blame::nobody_without_stacks,
    ),
    ("a_kernel_that_panics_is_an_error_with_a_report", panics),
    ("an_initramfs_that_is_none_is_a_usage_error", bad_initramfs),
    ("a_boot_too_slow_is_an_error_with_a_report", times_out),
    (
        "without_a_module_the_storm_is_skipped",
        skipped_without_module,
    ),
    (
        "on_a_kernel_without_tracing_its_scenarios_are_skipped",
        skipped_without_tracing,
    ),
    ("ctrl_c_during_the_boot_ends_a_run_with_130", || {
        interrupted("boot")
    }),
    ("ctrl_c_during_the_storm_ends_a_run_with_130", || {
        interrupted("storm")
    }),
    (
        "a_restored_run_has_the_result_of_a_cold_one",
        snapshots::as_cold,
    ),
    (
        "away_from_its_checkout_a_program_has_snapshots_or_says_why_not",
        snapshots::away,
    ),
    (
        "a_damaged_snapshot_is_thrown_away_and_made_again",
        snapshots::damaged,
    ),
    (
        "a_program_that_is_replaced_while_it_runs_goes_on_from_its_snapshot",
        snapshots::replaced,
    ),
    (
        "ctrl_c_while_saving_leaves_nothing_half_written",
        snapshots::interrupted,
    ),
    (
        "an_agent_that_dies_is_an_error_with_the_panic",
        tiny::agent_dies,
    ),
    ("a_kernel_that_hangs_is_an_error_with_a_report", || {
        // jmp to itself
        tiny::tiny_kernel(&[0xeb, 0xfe], "no progress for 2 s during: boot")
    }),
    (
        "a_kernel_that_triple_faults_is_an_error_with_a_report",
        || {
            // ud2, without an IDT
            tiny::tiny_kernel(&[0x0f, 0x0b], "triple fault on vCPU 0")
        },
    ),
    (
        "the_guests_own_trace_agrees_with_deferral",
        cross_check::with_deferral,
    ),
    (
        "the_guests_own_trace_agrees_without_deferral",
        cross_check::without_deferral,
    ),
    (
        "a_kernel_without_tracing_skips_the_cross_check_alone",
        cross_check::without_tracing,
    ),
    ("doctor_says_that_runs_are_possible", doctor),
    (
        "the_gate_fails_for_a_kernel_with_a_bug_and_says_what_changed",
        machines::gate,
    ),
    (
        "git_bisect_finds_the_commit_that_violates",
        machines::bisection,
    ),
    (
        "an_observation_says_who_interrupts_and_judges_only_when_told_to",
        observe::deferral,
    ),
    (
        "a_program_brought_along_is_run_and_its_end_reported",
        observe::program,
    ),
    (
        "a_command_that_the_guest_lacks_is_an_error_that_names_it",
        observe::missing,
    ),
];

/// A process without KVM, or without the right to it.
const WITHOUT_KVM: &[(&str, Test)] = &[
    ("without_dev_kvm_a_run_is_skipped_with_advice", || {
        skipped_by_host(
            "mount -t tmpfs none /dev",
            "/dev/kvm does not exist",
            "modprobe",
        )
    }),
    (
        "without_kvm_reports_say_skipped_and_a_bisection_skips",
        machines::reports,
    ),
    ("without_rights_a_run_is_skipped_with_advice", || {
        // On a device of our own, so that the host's keeps its owner.
        let hide = "mount -t tmpfs none /dev && mknod -m 600 /dev/kvm c 10 232";
        skipped_by_host(
            hide,
            "no right to use /dev/kvm: Permission denied",
            "usermod -aG kvm",
        )
    }),
];

fn ipirig(args: &[&str]) -> Output {
    // A test reports a lost guest itself; nothing here can fail to start but for a broken build.
    Command::new(env!("CARGO_BIN_EXE_ipirig"))
        .args(args)
        .output()
        .expect("ipirig starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), Failed> {
    if holds { Ok(()) } else { Err(why().into()) }
}

/// Runs a scenario with `--json -`, checks the exit code and gives the result and the table.
fn run(scenario: &str, args: &[&str], code: i32) -> Result<(Value, String), Failed> {
    let output = ipirig(&[&["run", scenario, "--json", "-"], args].concat());
    let table = stderr(&output);
    ensure(output.status.code() == Some(code), || {
        format!("{:?} instead of exit code {code}\n{table}", output.status)
    })?;
    let json = serde_json::from_slice(&output.stdout)?;
    machines::fits_the_schema(&json)?;
    Ok((json, table))
}

fn vcpu<'a>(result: &'a Value, role: &str) -> Option<&'a Value> {
    result["vcpus"]
        .as_array()?
        .iter()
        .find(|vcpu| vcpu["role"] == role)
}

fn targeted(result: &Value, role: &str) -> Option<u64> {
    vcpu(result, role)?["window"]["ipis_targeted"].as_u64()
}

fn held(scenario: &str, args: &[&str]) -> Result<Value, Failed> {
    let (result, table) = run(scenario, args, 0)?;
    ensure(result["verdict"] == "held", || table.clone())?;
    let checks = result["checks"].as_array().cloned().unwrap_or_default();
    for check in &checks {
        ensure(check["status"] == "held", || format!("{check}\n{table}"))?;
    }
    ensure(checks.len() == 9, || format!("{} checks", checks.len()))?;
    let isolated = targeted(&result, "isolated");
    ensure(isolated == Some(0), || {
        format!("isolated: {isolated:?}\n{table}")
    })?;
    let two = args.contains(&"2");
    let housekeeping = targeted(&result, "housekeeping");
    ensure(
        if two {
            housekeeping.is_none()
        } else {
            housekeeping > Some(0)
        },
        || format!("housekeeping: {housekeeping:?}\n{table}"),
    )?;
    let apic = &result["machine"]["apic"];
    ensure(!args.contains(&"xapic") || apic == "xapic", || {
        format!("{apic}")
    })?;
    let deferred = vcpu(&result, "isolated").and_then(|vcpu| vcpu["deferred"].as_u64());
    ensure(deferred >= Some(100), || {
        format!("deferred: {deferred:?}\n{table}")
    })?;
    Ok(result)
}

fn violated(scenario: &str, per_operation: u64) -> Result<(), Failed> {
    let (result, table) = run(scenario, &["--deferral", "off"], 1)?;
    ensure(result["verdict"] == "violated", || table.clone())?;
    let operations = result["scenario"]["operations"]
        .as_u64()
        .unwrap_or(u64::MAX);
    let isolated = targeted(&result, "isolated").unwrap_or(0);
    ensure(isolated >= per_operation * operations, || {
        format!("{isolated} IPIs\n{table}")
    })?;
    let evidence = result["checks"][0]["evidence"].as_str().unwrap_or_default();
    ensure(evidence.contains(&format!("{isolated} IPIs (")), || {
        evidence.to_owned()
    })?;
    ensure(evidence.contains(" per operation"), || evidence.to_owned())?;
    entries::nothing_deferred(&result)
}

/// The check that stands for a run without evidence, and the report.
fn ended<'a>(result: &'a Value, status: &str) -> Result<(&'a str, &'a str), Failed> {
    let check = &result["checks"][0];
    ensure(check["name"] == "run" && check["status"] == status, || {
        result.to_string()
    })?;
    let report = result["report"].as_str().unwrap_or_default();
    Ok((check["evidence"].as_str().unwrap_or_default(), report))
}

fn panics() -> Result<(), Failed> {
    // No such init: the kernel gives up.
    let (result, table) = run(
        "static-key-flip",
        &["--append", "rdinit=/no/such/init root="],
        3,
    )?;
    let (evidence, report) = ended(&result, "error")?;
    ensure(
        evidence.contains("the guest stopped during: boot: Kernel panic"),
        || table.clone(),
    )?;
    ensure(report.contains("vCPU 0"), || report.to_owned())
}

fn bad_initramfs() -> Result<(), Failed> {
    let kernel = reference_kernel();
    let args = [
        "run",
        "static-key-flip",
        "--initramfs",
        "/no/such/initramfs",
        "--kernel",
    ];
    let output = ipirig(&[&args[..], &[&kernel]].concat());
    ensure(output.status.code() == Some(2), || stderr(&output))?;
    ensure(stderr(&output).contains("/no/such/initramfs"), || {
        stderr(&output)
    })
}

fn times_out() -> Result<(), Failed> {
    // A busy loop before the agent is not at hand; a boot with a second's patience is.
    let (result, table) = run("static-key-flip", &["--cold", "--timeout", "1"], 3)?;
    let (evidence, report) = ended(&result, "error")?;
    ensure(
        evidence.starts_with("no progress for 1 s during: boot"),
        || table.clone(),
    )?;
    ensure(report.contains("vCPU 2"), || report.to_owned())?;
    // Nor can a bisection tell.
    let output = ipirig(&[
        "run",
        "static-key-flip",
        "--cold",
        "--timeout",
        "1",
        "--bisect",
    ]);
    ensure(output.status.code() == Some(125), || stderr(&output))
}

fn skipped_without_module() -> Result<(), Failed> {
    let kernel = reference_kernel();
    let args = ["--kernel", &kernel, "--memory", REFERENCE_MEMORY];
    let (result, _) = run("static-key-flip", &args, 4)?;
    let (evidence, _) = ended(&result, "skipped")?;
    ensure(evidence.contains("needs the module ipirig.ko"), || {
        evidence.to_owned()
    })
}

fn skipped_without_tracing() -> Result<(), Failed> {
    let kernel = reference_kernel();
    let args = ["--kernel", &kernel, "--memory", REFERENCE_MEMORY];
    let (result, _) = run("tracepoint-toggle", &args, 4)?;
    let (evidence, _) = ended(&result, "skipped")?;
    ensure(evidence.starts_with("no CONFIG_TRACING"), || {
        evidence.to_owned()
    })?;
    // One that holds does not make up for it, unless somebody says so.
    let both = ["run", "static-key-flip", "tracepoint-toggle"];
    // With the module, for the other.
    let initramfs = entries::reference_initramfs();
    let args = [&args[..], &["--initramfs", &initramfs]].concat();
    let output = ipirig(&[&both[..], &args].concat());
    let hint = "`--allow-skipped tracepoint-toggle`";
    ensure(
        output.status.code() == Some(4) && stderr(&output).contains(hint),
        || stderr(&output),
    )?;
    let allowed = ["--allow-skipped", "tracepoint-toggle"];
    let output = ipirig(&[&both[..], &args, &allowed].concat());
    ensure(output.status.code() == Some(0), || stderr(&output))
}

/// Ctrl-C as soon as `phase` is announced.
fn interrupted(phase: &str) -> Result<(), Failed> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipirig"));
    command.args(["run", "static-key-flip"]);
    command.args((phase == "boot").then_some("--cold"));
    let last = interrupt(&mut command, phase)?;
    let expected = format!("ipirig: interrupted during: {phase}");
    ensure(last.as_deref() == Some(&expected), || format!("{last:?}"))
}

/// Ends a run by Ctrl-C as soon as `phase` is announced; its last words.
fn interrupt(run: &mut Command, phase: &str) -> Result<Option<String>, Failed> {
    let mut child = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
    // Standard error is no terminal, so each stage is a line.
    let stage = format!("ipirig: {phase}");
    let announced = lines.any(|line| line.is_ok_and(|line| line == stage));
    ensure(announced, || format!("{phase} was never announced"))?;
    let kill = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()?;
    ensure(kill.success(), || "kill failed".to_owned())?;
    let status = child.wait()?;
    ensure(status.code() == Some(130), || format!("{status:?}"))?;
    Ok(lines.map_while(Result::ok).last())
}

/// The path of the kernel that a run boots by default.
fn reference_kernel() -> String {
    let guest = ipirig(&["guest", "path"]);
    let paths = String::from_utf8_lossy(&guest.stdout);
    let kernel = paths.lines().find_map(|line| line.strip_prefix("kernel "));
    kernel.unwrap_or_default().trim().to_owned()
}

/// Runs a scenario and the doctor in a mount namespace of their own, after `hide`, as nobody.
fn skipped_by_host(hide: &str, why: &str, advice: &str) -> Result<(), Failed> {
    // Somewhere that nobody may read.
    let dir = tempfile::tempdir_in("/tmp")?;
    let open = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(dir.path(), open(0o755))?;
    let binary = dir.path().join("ipirig");
    std::fs::copy(env!("CARGO_BIN_EXE_ipirig"), &binary)?;
    let as_nobody = "exec setpriv --reuid=65534 --regid=65534 --clear-groups";
    let ipirig = |args: &str| {
        let script = format!("{hide} && {as_nobody} {} {args}", binary.display());
        // Mounts made inside do not come out: unshare(1) makes all of them private.
        Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .output()
    };

    let output = ipirig("run static-key-flip --json -")?;
    ensure(output.status.code() == Some(4), || stderr(&output))?;
    let result: Value = serde_json::from_slice(&output.stdout)?;
    let (evidence, _) = ended(&result, "skipped")?;
    ensure(
        result["verdict"] == "skipped" && evidence.starts_with(why),
        || result.to_string(),
    )?;
    ensure(stderr(&output).contains(advice), || stderr(&output))?;

    let output = ipirig("doctor")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.code() == Some(4), || text.clone())?;
    ensure(text.contains(why) && text.contains(advice), || text.clone())
}

fn doctor() -> Result<(), Failed> {
    let output = ipirig(&["doctor"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(output.status.code() == Some(0), || text.clone())?;
    ensure(text.ends_with("Runs are possible here.\n"), || text.clone())
}
