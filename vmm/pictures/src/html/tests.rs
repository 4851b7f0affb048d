mod contrast;

use askama::Template;
use ipirig_checks::check::Verdict;

use super::reading::{assert_alone, assert_in_order, assert_shown, parsed, select, texts};
use super::view::{EntryView, Page};
use super::*;
use crate::specimen;

fn page(runs: &[RunResult]) -> String {
    let made = Provenance {
        command: Some("ipirig run static-key-flip --html 'a b.html'".into()),
        time: Some(SystemTime::UNIX_EPOCH),
    };
    html(runs, &made).unwrap()
}

#[test]
fn a_violated_run_is_told_with_its_numbers() {
    let document = parsed(&page(&[specimen::violated()]));
    let texts = |selector| texts(&document, selector);
    assert_eq!(texts("head title"), ["static-key-flip: violated – ipirig"]);
    assert_eq!(texts("h1"), ["static-key-flip"]);
    assert_eq!(
        texts(".verdict p"),
        [
            "✗ violated",
            "2 IPIs were sent to isolated CPUs, which should have been left alone."
        ]
    );
    assert_eq!(texts(".figures dd")[..2], ["2", "101"]);
    assert_eq!(
        texts(".checks tbody tr")[0],
        "✗ violated isolated-ipis vCPU 2: 2 IPIs (call-function 2) from vCPU 0, 1.00 per operation"
    );
    assert_eq!(
        texts(".matrix tbody tr:first-child td"),
        ["0", "2", "2", "4"]
    );
    assert_eq!(texts(".matrix td.h5").len(), 2);
    assert_eq!(
        texts(".cause summary"),
        [
            "4 IPIs static key call-function from vCPU 0; can wait until a CPU in user space enters \
          the kernel"
        ]
    );
    assert_eq!(
        texts(".chain li"),
        [
            "smp_call_function_many_cond+0x12",
            "text_poke_sync inlined into text_poke_bp_batch+0x12",
            "0xffffffffc0000010"
        ]
    );
    assert_eq!(
        texts("pre.wrap"),
        ["ipirig run static-key-flip --html 'a b.html'"]
    );
    assert_eq!(texts("time"), ["1970-01-01T00:00:00Z"]);
    assert!(texts(".facts td").contains(&"6.12.1-specimen".to_owned()));
}

#[test]
fn a_page_is_in_order_for_who_cannot_see_it() {
    let document = parsed(&page(&[specimen::violated(), specimen::violated()]));
    assert_in_order(&document);
    assert_eq!(select(&document, "h1").len(), 1);
    assert!(select(&document, "table").len() > 8);
    let mut ids: Vec<&str> = select(&document, "[id]")
        .iter()
        .filter_map(|element| element.value().id())
        .collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

#[test]
fn several_runs_have_a_table_that_leads_to_each() {
    let mut held = specimen::violated();
    held.verdict = Verdict::Held;
    let document = parsed(&page(&[specimen::violated(), held]));
    assert_eq!(
        texts(&document, "main > .verdict p"),
        ["✗ violated", "1 held, 1 violated, 0 error, 0 skipped"]
    );
    let links = select(&document, ".index a");
    let links: Vec<&str> = links
        .iter()
        .filter_map(|a| a.value().attr("href"))
        .collect();
    assert_eq!(links, ["#run-1", "#run-2"]);
    for link in links {
        assert_eq!(select(&document, link).len(), 1);
    }
    assert_eq!(texts(&document, "h1"), ["2 runs"]);
    assert_eq!(texts(&document, "h2")[0], "static-key-flip");
}

#[test]
fn nothing_is_fetched_and_no_script_is_run() {
    let page = page(&[specimen::violated()]);
    for word in [
        "http:",
        "https:",
        "url(",
        "@import",
        "<script",
        "javascript:",
    ] {
        assert!(!page.contains(word), "{word}");
    }
    assert_alone(&parsed(&page));
}

#[test]
fn hostile_text_stays_text() {
    const EVIL: &str =
        "<script>alert(1)</script>\"' onload=x </style></pre></svg>&lt;\u{202e}\u{0}\u{1b}[2J";
    const SHOWN: &str =
        "<script>alert(1)</script>\"' onload=x </style></pre></svg>&lt;\u{fffd}\u{fffd}\u{fffd}[2J";
    let evil = || EVIL.to_owned();
    let mut run = specimen::violated();
    run.scenario.name = evil();
    run.scenario.storm = evil();
    run.checks[0].evidence = evil();
    run.report = Some(evil());
    let kernel = run.kernel.as_mut().unwrap();
    kernel.release = Some(evil());
    kernel.cmdline = evil();
    kernel.path = evil();
    run.machine.as_mut().unwrap().warnings = vec![evil()];
    let blame = &mut run.blame[0];
    blame.cause = evil();
    blame.kind = evil();
    blame.broken = Some(evil());
    blame.chain[0].function = Some(evil());
    blame.chain[1].inlined = vec![evil()];
    let window = &mut run.vcpus[2].window;
    window.by_vector = [(evil(), 2)].into();
    window.other_interrupts = [(evil(), 2), ("timer".into(), 1)].into();

    let made = Provenance {
        command: Some(evil()),
        time: None,
    };
    let mut page = Page::new(&[run.clone(), run], &made);
    page.runs[0].entries.push(EntryView {
        cpu: 2,
        title: evil(),
        summary: evil(),
        bad: true,
        listing: Some(evil()),
    });
    let page = page.render().unwrap().replace(unprintable, "\u{fffd}");
    let document = parsed(&page);
    assert_alone(&document);
    let places = [
        "h2",
        ".lede",
        ".checks td",
        "details[open] pre",
        ".facts td",
        ".warning",
        ".cause summary b",
        ".chain code",
        ".entry pre",
        ".index a",
        "pre.wrap",
        "td",
    ];
    assert_shown(&document, SHOWN, &places);
}

#[test]
fn a_run_that_came_to_nothing_says_what_is_missing() {
    let mut run = RunResult::new(&specimen::plan(), Vec::new());
    run.report = Some("vCPU 0: rip 0x10".into());
    let document = parsed(&page(&[run]));
    assert_eq!(texts(&document, "details[open] pre"), ["vCPU 0: rip 0x10"]);
    let missing = texts(&document, ".muted");
    assert_eq!(missing, ["No window opened, so there is nothing to draw."]);
    assert!(select(&document, ".matrix, .picture, .figures").is_empty());
}

#[test]
fn what_was_not_recorded_is_told_from_what_did_not_happen() {
    let causes = |run: RunResult| texts(&parsed(&page(&[run])), "section > p.muted");
    let mut run = specimen::violated();
    run.blame.clear();
    assert_eq!(
        causes(run.clone()),
        ["Not recorded: this result does not say from which calls the IPIs were sent."]
    );
    run.vcpus[0].window.ipi_writes = 0;
    assert_eq!(
        causes(run),
        [
            "No vCPU sent an IPI in a window.",
            "There was no IPI to explain."
        ]
    );
}
