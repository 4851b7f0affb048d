//! Whole runs on real KVM. Where a machine cannot run, each test is listed as ignored with the
//! reason; none passes unrun. Needs the reference guest, which the first run builds.

mod blame;
mod catalogue;
mod cross_check;
mod endings;
mod entries;
mod harness;
mod hostile;
mod long;
mod machines;
mod many;
mod observe;
mod second_opinion;
mod series;
mod snapshots;
mod sweep;
mod tiny;

use std::fs::OpenOptions;
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Failed, Trial};

use endings::{
    bad_initramfs, doctor, interrupted, interrupted_others, interrupted_suite, panics,
    skipped_by_host, skipped_without_module, skipped_without_tracing, times_out,
};
use harness::{held, violated};

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
    let hostile = hostile::tests().map(|(name, test)| unless(&no_kvm, Trial::test(name, test)));
    let stock = observe::STOCK.iter().map(|&(version, name)| {
        let lacking = no_kvm.clone().or_else(|| observe::no_stock(version));
        unless(&lacking, Trial::test(name, move || observe::stock(version)))
    });
    let ports = series::PORTS.iter().map(|&(version, name)| {
        let lacking = no_kvm.clone().or_else(|| series::lacking(version));
        unless(&lacking, Trial::test(name, move || series::flips(version)))
    });
    let asked_for = no_kvm.clone().unwrap_or_else(second_opinion::asked_for);
    let traced = second_opinion::TESTS
        .iter()
        .map(|test| trial(&Some(asked_for.clone()), test));
    let long = long::TESTS
        .iter()
        .map(|test| trial(&Some(no_kvm.clone().unwrap_or_else(long::asked_for)), test));
    let without = WITHOUT_KVM.iter().map(|test| trial(&no_root, test));
    libtest_mimic::run(
        &args,
        on_kvm
            .chain(hostile)
            .chain(stock)
            .chain(ports)
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
    (
        "twenty_four_vcpus_are_held_though_no_fair_server_can_be_switched_off",
        many::not_served,
    ),
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
    (
        "ctrl_c_during_the_boot_ends_a_run_with_130_and_reports_that_say_so",
        || interrupted("boot"),
    ),
    (
        "ctrl_c_during_the_storm_ends_a_run_with_130_and_reports_that_say_so",
        || interrupted("storm"),
    ),
    (
        "ctrl_c_in_a_suite_leaves_the_reports_of_what_had_ended",
        interrupted_suite,
    ),
    (
        "ctrl_c_before_there_are_points_or_anything_to_observe_leaves_reports",
        interrupted_others,
    ),
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
