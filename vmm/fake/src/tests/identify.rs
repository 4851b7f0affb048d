//! What the kernel says of itself, and what a run makes of it.

use ipirig_entry::KernelLayout;
use ipirig_evidence::Evidence;
use ipirig_evidence::ledger::{DETAILS, Ledger};
use ipirig_evidence::stacks::{Code, SymbolSource};
use ipirig_rig::conductor::{Ended, Start, conduct};

use crate::kernel;
use crate::{Fake, Script, plan};

/// More parts than any text may have.
const TOO_MANY: usize = (1 << 13) + 1;
const NOTES: &[u8] = b"\x04\0\0\0\x02\0\0\0\x03\0\0\0GNU\0\xab\xcd\0\0";

fn run(build_id: Option<&str>, script: Script) -> Result<Evidence, Ended> {
    let mut plan = plan("static-key-flip", None);
    plan.build_id = build_id.map(str::to_owned);
    let ledger = Ledger::new(plan.roles.len(), DETAILS);
    let mut guest = Fake::new(&plan, &ledger, script);
    let layout = Box::new(kernel::layout);
    conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {})
}

fn ending(build_id: Option<&str>, parts: &'static [&'static [u8]]) -> Option<String> {
    let script = Script {
        kernel_text: parts,
        ..Script::default()
    };
    Some(run(build_id, script).err()?.to_string())
}

#[test]
fn a_kernel_that_did_not_isolate_as_planned_ends_a_scenario_s_run() {
    let ending = |setup| {
        let script = Script {
            setup,
            ..Script::default()
        };
        match run(None, script) {
            Ok(evidence) => evidence.setup.unwrap_or_default().differences.join("; "),
            Err(ended @ Ended::NotIsolated { .. }) => format!("error: {ended}"),
            Err(ended @ Ended::Lacking { .. }) => format!("lacking: {ended}"),
            Err(ended) => panic!("{ended}"),
        }
    };
    let shown = |setup| ending(setup).split(" vCPUs").next().map(str::to_owned);
    for (setup, expected) in [
        ("nohz_full\t2\nisolated\t1-2\n", ""),
        (
            "nohz_full\t1\n",
            "error: the kernel keeps its tick on isolated",
        ),
        (
            "online\t0-2\n",
            "lacking: the kernel keeps its tick on isolated",
        ),
        ("nohz_full\t2\n", "the kernel balances load onto isolated"),
        ("nohz_full\t2\nonline\t0-1\n", "error: of 3"),
        (
            "nohz_full\t2\nisolated\t2\ntickless\t\n",
            "error: the kernel keeps its tick on isolated",
        ),
        ("", ""),
    ] {
        assert_eq!(shown(setup).as_deref(), Some(expected), "{setup:?}");
    }
}

#[test]
fn vmalloc_memory_is_where_the_kernel_s_variable_says() {
    let vmalloc = |layout: fn(u64) -> Result<KernelLayout, String>, vmalloc_base| {
        let plan = plan("static-key-flip", None);
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        let script = Script {
            vmalloc_base,
            ..Script::default()
        };
        let mut guest = Fake::new(&plan, &ledger, script);
        let layout = Box::new(layout);
        let evidence = conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {}).unwrap();
        evidence.layout.map(|layout| layout.vmalloc.clone())
    };
    let base = 0xffff_a123_4000_0000;
    assert_eq!(vmalloc(kernel::layout, None), Ok(KernelLayout::VMALLOC));
    assert_eq!(
        vmalloc(kernel::randomized_layout, Some(base)),
        Ok(base..base + (32 << 40))
    );
    let why =
        "the kernel's variable vmalloc_base, which says where vmalloc memory is, cannot be read";
    assert_eq!(
        vmalloc(kernel::randomized_layout, None),
        Err(why.to_owned())
    );
}

#[test]
fn a_partition_that_the_kernel_does_not_confirm_ends_the_run() {
    let ending = |partition| {
        let plan = plan("run-time-partition", None);
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        let script = Script {
            partition,
            ..Script::default()
        };
        let mut guest = Fake::new(&plan, &ledger, script);
        let layout = Box::new(kernel::layout);
        let ended = conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {}).err();
        ended.map(|ended| ended.to_string())
    };
    assert_eq!(ending(None), None);
    let says =
        "the kernel says `isolated invalid` of the partition by a cpuset, and not `isolated`";
    assert_eq!(ending(Some("isolated invalid")).as_deref(), Some(says));
}

#[test]
fn a_kernel_of_another_build_than_the_vmlinux_ends_the_run() {
    assert_eq!(ending(Some("abcd"), &[NOTES]), None);
    assert_eq!(
        ending(Some("abce"), &[NOTES]).as_deref(),
        Some("the guest's kernel has build id abcd and --vmlinux abce: they are not of one build")
    );
    // One without a build id was compared by its version, before it was booted.
    assert_eq!(ending(Some("abce"), &[]), None);
    assert_eq!(ending(None, &[NOTES]), None);
}

#[test]
fn a_text_is_put_together_and_one_without_an_end_is_left() {
    static PARTS: [&[u8]; 2] = [NOTES.split_at(9).0, NOTES.split_at(9).1];
    assert!(ending(Some("abce"), &PARTS).is_some());
    // Its first part is a note: if it were taken, it would be of another build.
    static ENDLESS: [&[u8]; TOO_MANY] = {
        let mut parts: [&[u8]; TOO_MANY] = [b"x"; TOO_MANY];
        parts[0] = NOTES;
        parts
    };
    assert_eq!(ending(Some("abce"), &ENDLESS), None);
}

#[test]
fn the_guest_is_asked_for_names_where_the_kernel_s_file_has_none_and_only_there() {
    let asked = |source: Option<SymbolSource>| {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let bzimage = file("bzImage", "no ELF file");
        let initramfs = file("initramfs", "");
        let plan = plan("static-key-flip", None);
        let ledger = Ledger::new(plan.roles.len(), DETAILS);
        if let Some(source) = source {
            ledger
                .stacks()
                .of(Code::read(&bzimage, &source, &initramfs));
        }
        let mut guest = Fake::new(&plan, &ledger, Script::default());
        let layout = Box::new(kernel::layout);
        // What it makes of no names at all is another test's.
        let _ = conduct(&mut guest, &plan, Start::Boot, layout, &ledger, &|_| {});
        guest.names_asked
    };
    assert!(asked(Some(SymbolSource::Kernel)));
    assert!(!asked(Some(SymbolSource::Text("/nonexistent".into()))));
    assert!(!asked(None));
}
