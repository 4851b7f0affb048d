//! What is written of three senders.

use ipirig_document::RunDocument;
use ipirig_evidence::blame::{Attribution, Taken};

use super::*;

fn frame(address: u64, function: Option<&str>, inlined: &[&str]) -> Frame {
    Frame {
        address,
        function: function.map(str::to_owned),
        offset: 4,
        inlined: inlined.iter().copied().map(str::to_owned).collect(),
    }
}

fn blame(
    cause: &str,
    deferrable: Deferrable,
    targets: &[(usize, u64)],
    chain: Vec<Frame>,
) -> Blame {
    Blame {
        cause: cause.to_owned(),
        by: None,
        deferrable,
        kind: "call-function".to_owned(),
        source: 0,
        targets: targets.iter().copied().collect(),
        taken: Taken::default(),
        chain,
        broken: None,
    }
}

fn flip(address: u64) -> Vec<Frame> {
    vec![
        frame(1, Some("x2apic_send_IPI_allbutself"), &[]),
        frame(2, Some("on_each_cpu_cond_mask"), &[]),
        frame(address, Some("text_poke_bp_batch"), &["text_poke_sync"]),
        frame(4, Some("ipirig_flip [ipirig]"), &[]),
        frame(5, Some("do_syscall_64"), &[]),
    ]
}

fn account() -> Account {
    let wake = Blame {
        kind: "reschedule".to_owned(),
        source: 1,
        broken: Some("the stack cannot be read".to_owned()),
        ..blame(
            "unknown",
            Deferrable::Unknown,
            &[(2, 1)],
            vec![frame(0xabc, None, &[])],
        )
    };
    let vcpu = |id, role: &str| Vcpu {
        id,
        role: role.to_owned(),
    };
    Account {
        schema_version: 3,
        scenario: Scenario { name: "s".into() },
        vcpus: vec![
            vcpu(0, "control"),
            vcpu(1, "housekeeping"),
            vcpu(2, "isolated"),
        ],
        blame: vec![
            blame("static key", Deferrable::Yes, &[(1, 2), (2, 2)], flip(3)),
            blame("static key", Deferrable::Yes, &[(1, 7), (2, 5)], flip(30)),
            wake,
            blame("GUP sync", Deferrable::Omit, &[(1, 9)], Vec::new()),
        ],
    }
}

#[test]
fn a_report_has_a_line_for_each_chain_of_functions_to_isolated_vcpus() {
    assert_eq!(
        account().lines(),
        [
            "7 x call-function from vCPU 0: text_poke_sync <- text_poke_bp_batch <- \
             ipirig_flip [ipirig]; static key, deferrable",
            "1 x reschedule from vCPU 1: 0xabc <- ? (the stack cannot be read); unknown, \
             deferrable or not, unknown",
        ]
    );
}

#[test]
fn a_report_does_not_show_chains_without_end() {
    let mut account = account();
    account.blame = (0..11)
        .map(|index| {
            let chain = vec![frame(index, Some(&format!("f{index}")), &[])];
            blame("vunmap", Deferrable::Yes, &[(2, 100 - index)], chain)
        })
        .collect();
    let lines = account.lines();
    assert_eq!(lines.len(), SHOWN + 1);
    let expected = "273 more by 3 other chains: `ipirig blame s` shows them";
    assert_eq!(lines.last().map(String::as_str), Some(expected));
}

#[test]
fn a_table_has_causes_with_their_chains() {
    assert_eq!(
        account().table(To::All, Paint::PLAIN),
        "\
s: 26 IPIs to vCPUs, by cause

     16  static key, deferrable
     16    call-function from vCPU 0: text_poke_sync <- text_poke_bp_batch <- ipirig_flip [ipirig]

      9  GUP sync, could be omitted
      9    call-function from vCPU 0: ?

      1  unknown, deferrable or not, unknown
      1    reschedule from vCPU 1: 0xabc <- ? (the stack cannot be read)
"
    );
    let mut none = account();
    none.blame.clear();
    assert_eq!(
        none.table(To::One(2), Paint::PLAIN),
        "s: no IPI to vCPU 2 was accounted for\n"
    );
}

#[test]
fn folded_stacks_begin_outside_and_end_with_the_count() {
    assert_eq!(
        account().folded(To::Isolated),
        "\
0xabc 1
do_syscall_64;ipirig_flip_[ipirig];text_poke_bp_batch;text_poke_sync;on_each_cpu_cond_mask;x2apic_send_IPI_allbutself 7
"
    );
    assert_eq!(account().folded(To::One(0)), "");
}

#[test]
fn what_an_interrupt_interrupted_is_in_folded_stacks_only() {
    let mut account = account();
    account.blame = ["vfree", "vmalloc"]
        .map(|interrupted| {
            let chain = [
                "x2apic_send_IPI",
                "sched_tick",
                "asm_sysvec_apic_timer_interrupt",
                interrupted,
            ];
            let chain = chain.map(|name| frame(1, Some(name), &[])).to_vec();
            blame("load balancing", Deferrable::No, &[(2, 3)], chain)
        })
        .into();
    assert_eq!(
        account.lines(),
        [
            "6 x call-function from vCPU 0: sched_tick <- asm_sysvec_apic_timer_interrupt; \
          load balancing, not deferrable"
        ]
    );
    assert_eq!(account.folded(To::All).lines().count(), 2);
}

#[test]
fn a_results_json_is_an_account() {
    let plan = ipirig_fake::plan("static-key-flip", None);
    let mut result = RunResult::new(&plan, Vec::new());
    let attribution = |blame: Blame| Attribution {
        cause: blame.cause,
        by: blame.by,
        deferrable: blame.deferrable,
        kind: blame.kind,
        source: blame.source,
        number: Some(7),
        targets: blame.targets,
        taken: blame.taken,
        chain: blame.chain,
        broken: blame.broken,
    };
    result.blame = account().blame.into_iter().map(attribution).collect();
    let json = RunDocument::from(&result).to_json().unwrap();
    let read: Account = serde_json::from_str(&json).unwrap();
    assert_eq!(read.blame, account().blame);
    assert_eq!(read.scenario.name, "static-key-flip");
}
