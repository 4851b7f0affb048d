//! What fits a test of what can go on for hours: see the head of the crate.

use ipirig_fuzz::{Corpus, TARGETS, Target, apic};

fn feed(name: &str) {
    let target = Target::find(name).expect("a target");
    let mut corpus = Corpus::new((target.corpus)(), 1);
    for good in (target.corpus)() {
        (target.feed)(&good);
    }
    for _ in 0..target.bounded {
        (target.feed)(&corpus.next_input());
    }
}

macro_rules! bounded {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[test]
            fn $test() {
                feed($name);
            }
        )*

        #[test]
        fn each_target_has_its_test() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

bounded! {
    no_scenario_file_panics: "scenario",
    no_result_file_panics: "results",
    no_kernel_file_panics: "kernel",
    no_orc_table_panics: "orc",
    no_stack_panics_or_has_no_end: "stack",
    no_snapshot_is_restored_without_its_hashes: "snapshot",
    no_counters_panic_or_grow: "counters",
    no_text_of_a_guest_panics_or_grows: "guest-text",
    no_record_of_an_entry_panics_or_grows: "entry",
    no_mailbox_panics_a_run: "mailbox",
    no_trace_of_kvm_panics_or_grows: "kvm-trace",
    no_initramfs_panics: "initramfs",
    no_index_has_a_snapshot_restored_from_elsewhere: "snapshot-index",
    no_saved_apic_breaks_one: "saved-apic",
    no_file_of_accesses_breaks_an_apic: "apic-accesses",
}

#[test]
fn each_target_is_one_of_cargo_fuzz_too() {
    let manifest = include_str!("../libfuzzer/Cargo.toml");
    let lines = manifest
        .lines()
        .filter(|line| line.starts_with("path = \"t"));
    let paths: Vec<_> = lines.map(str::to_owned).collect();
    let file = |name: &str| format!("path = \"targets/{}.rs\"", name.replace('-', "_"));
    let expected: Vec<_> = TARGETS.iter().map(|target| file(target.name)).collect();
    assert_eq!(paths, expected);
}

// Ten million accesses in all.
#[test]
fn no_stream_of_accesses_breaks_an_apic_1() {
    apic::stream(5_000_000, 1);
}

#[test]
fn no_stream_of_accesses_breaks_an_apic_2() {
    apic::stream(5_000_000, 2);
}
