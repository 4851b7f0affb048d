use ipirig_sweep::judge::{Invariant, Violation};
use ipirig_sweep::result::{InstructionResult, SCHEMA_VERSION, Timing};
use ipirig_sweep::{Outcome, PathResult, PointResult};

use super::*;

fn result() -> SweepResult {
    let point = |name: &str, outcome| PointResult::new(name.parse().unwrap(), outcome, None);
    let violated = Outcome::Violated(vec![Violation {
        invariant: Invariant::SentOrDeferred,
        at: "f+0x4".to_owned(),
        words: "sends <nothing>".to_owned(),
    }]);
    let instruction = |address: &str, text: &str| InstructionResult {
        address: address.to_owned(),
        text: text.to_owned(),
    };
    SweepResult {
        schema_version: SCHEMA_VERSION,
        verdict: "violated".to_owned(),
        why: Some("ended by Ctrl-C".to_owned()),
        shard: "1/1".to_owned(),
        complete: false,
        kernel: Some("Linux 6.12\n".to_owned()),
        paths: vec![
            PathResult {
                path: "sender-flip".to_owned(),
                instructions: vec![
                    instruction("f", "nop"),
                    instruction("f+0x4", "mov %al, (%rdi)"),
                ],
                why: None,
            },
            PathResult {
                path: "debug".to_owned(),
                instructions: vec![],
                why: Some("two traces of it differ".to_owned()),
            },
        ],
        points: vec![
            point("entry@sender-flip+0", Outcome::Held),
            point("entry@sender-flip+1", violated),
        ],
        timing: Timing::default(),
    }
}

#[test]
fn a_strip_is_a_test_and_what_is_missing_is_one_as_well() {
    assert_eq!(
        ktap(&result()),
        "\
KTAP version 1
1..3
# entry@sender-flip: 2 hit, 0 missed, 1 violated, 0 errors
# entry@sender-flip: entry@sender-flip+1: invariant 3: f+0x4 sends <nothing>
not ok 1 entry@sender-flip
# debug: not traced: two traces of it differ
not ok 2 debug # ERROR not traced: two traces of it differ
# complete: ended by Ctrl-C
not ok 3 complete # ERROR ended by Ctrl-C
"
    );
}

#[test]
fn junit_has_a_case_for_each_strip_with_what_is_wrong_in_it() {
    let xml = junit(&result()).unwrap();
    let has = |text: &str| assert!(xml.contains(text), "{text} is not in\n{xml}");
    has("tests=\"3\" skipped=\"0\" errors=\"2\" failures=\"1\"");
    has("entry@sender-flip+1: invariant 3: f+0x4 sends &lt;nothing");
    has("<testcase name=\"complete\" classname=\"sweep\"");
}

#[test]
fn a_point_is_explained_by_its_instructions_and_the_command_that_shows_it_again() {
    let result = result();
    assert_eq!(
        crate::sweep::explained(&result, &result.points[1]),
        "\
entry@sender-flip+1
       0  f                                            nop
  >    1  f+0x4                                        mov %al, (%rdi)
  invariant 3: f+0x4 sends <nothing>
  again: ipirig sweep --point entry@sender-flip+1
"
    );
}
