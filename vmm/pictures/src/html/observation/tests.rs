use ipirig_evidence::{KernelSetup, SwitchedOff};
use ipirig_observation::NO_INTERRUPT;
use scraper::Html;

use super::*;
use crate::html::reading::{self, assert_alone, assert_in_order, assert_shown, select, texts};
use crate::specimen;

fn parsed(report: &Report) -> Html {
    let made = Provenance {
        command: Some("ipirig observe --html a.html".into()),
        time: None,
    };
    reading::parsed(&observation(report, &made).unwrap())
}

#[test]
fn an_observation_is_told_by_cause_with_what_can_be_done_and_how_long_it_took() {
    let document = parsed(&specimen::observed());
    let texts = |selector| texts(&document, selector);
    assert_eq!(texts("head title"), ["load fork: complete – ipirig"]);
    assert_eq!(texts("h1"), ["Who interrupted the isolated CPUs?"]);
    assert_eq!(texts(".figures dd"), ["3", "2", "0.250 s", "0.00 s"]);
    assert_eq!(
        texts(".warning"),
        [
            "Warning: vCPUs 0 and 1 share a core",
            "Warning: not quiet before the command began: a tick came"
        ]
    );
    assert_eq!(
        texts(".why tbody tr"),
        [
            "2 static key IPIs yes, until the CPU next enters the kernel stop the static key kernel/x.c",
            "2 timer by mce_timer_fn timer interrupts stop the timer kernel/x.c",
            "1 queued work by smp_call_on_cpu IPIs no",
        ]
    );
    // Nobody told what the host is, so there are ratios only.
    assert_eq!(
        texts(".long tbody tr"),
        [
            "4 0.325 % 1.0 x 6.0 x 1 up to 0.6 x 2 up to 1.3 x 1 up to 10.6 x static key"
                .to_owned(),
            format!("1 0.050 % 1.0 x 6.0 x 1 up to 2.6 x {NO_INTERRUPT}"),
        ]
    );
    let heights: Vec<_> = select(&document, ".long tr:first-child rect")
        .iter()
        .filter_map(|bar| bar.value().attr("height"))
        .collect();
    assert_eq!(heights, ["14", "28", "14"]);
    assert_eq!(texts("main pre")[0], "hello");
    assert_eq!(
        texts("main section > p.muted:last-of-type")
            .last()
            .map(String::as_str),
        Some("2 bytes more.")
    );
    // What went to other vCPUs alone is nobody's business here.
    assert!(!document.html().contains("vunmap"));
    assert_eq!(
        texts(".cause summary b"),
        ["static key", "queued work by smp_call_on_cpu"]
    );
}

#[test]
fn the_time_line_is_of_what_was_observed_and_no_entry_ends_it() {
    let document = parsed(&specimen::observed());
    assert_eq!(texts(&document, "rect.window title"), ["observed, 4.00 ms"]);
    let words = texts(&document, "svg.picture text");
    assert!(words.contains(&"observed, 4.00 ms".to_owned()), "{words:?}");
    assert!(!document.html().contains("ended by"));
}

#[test]
fn on_a_host_whose_cpus_are_real_there_are_times() {
    let observed = specimen::observed().observation.unwrap();
    let table = DurationTable::new(&observed.isolated[0], false).unwrap();
    assert_eq!(
        table.caption,
        "vCPU 2 was kept from its task 5 times, for 15.0 µs in all, 0.375 % of 4.00 ms; gaps from 1.00 µs on"
    );
    let row = &table.rows[0];
    assert_eq!(
        [
            &row.times,
            &row.total,
            &row.median,
            &row.longest,
            &row.label
        ],
        [
            "4",
            "13.0 µs",
            "1.50 µs",
            "9.00 µs",
            "Lengths of gaps: 1 up to 999 ns, 2 up to 2.00 µs, 1 up to 16.0 µs"
        ]
    );
}

#[test]
fn a_gap_without_an_interrupt_is_said_to_be_the_host_s_or_an_smi() {
    let document = parsed(&specimen::observed());
    let row = texts(&document, ".long tbody tr:last-child th");
    assert_eq!(row, [NO_INTERRUPT]);
    assert!(NO_INTERRUPT.contains("host") && NO_INTERRUPT.contains("SMI"));
}

#[test]
fn what_was_switched_off_is_listed_and_that_nothing_was() {
    let mut report = specimen::observed();
    let off = |report: &Report| texts(&parsed(report), "section li");
    assert!(off(&report).iter().all(|item| !item.contains("nowatchdog")));
    let mut setup = KernelSetup::default();
    report.run.kernel.as_mut().unwrap().setup = Some(setup.clone());
    let document = parsed(&report);
    let nothing = "Nothing: the guest is as its kernel has it.".to_owned();
    assert!(texts(&document, "p.muted").contains(&nothing));
    setup.switched_off.push(SwitchedOff {
        by: "nowatchdog".to_owned(),
        would: "a watchdog".to_owned(),
        refused: None,
    });
    let shown = setup.switched_off[0].to_string();
    report.run.kernel.as_mut().unwrap().setup = Some(setup);
    assert!(off(&report).contains(&shown));
}

#[test]
fn an_observation_that_came_to_nothing_says_why() {
    let mut report = specimen::observed();
    report.observation = None;
    report.run.verdict = Verdict::Skipped;
    report.run.checks[0].status = Verdict::Skipped;
    report.run.vcpus.clear();
    let document = parsed(&report);
    assert_eq!(
        texts(&document, ".verdict p"),
        ["– skipped", "Nothing was observed: nothing-lost."]
    );
    assert!(select(&document, ".why, .long, .figures").is_empty());
}

#[test]
fn hostile_text_stays_text_and_nothing_is_fetched() {
    const EVIL: &str = "<script>x</script>\"' onload=x </style></pre></svg>&lt;\u{202e}\u{0}";
    const SHOWN: &str = "<script>x</script>\"' onload=x </style></pre></svg>&lt;\u{fffd}\u{fffd}";
    let evil = || EVIL.to_owned();
    let mut report = specimen::observed();
    report.run.scenario.storm = evil();
    report.run.kernel.as_mut().unwrap().release = Some(evil());
    report.run.blame[0].by = Some(evil());
    report.run.blame[0].chain[0].function = Some(evil());
    let observed = report.observation.as_mut().unwrap();
    observed.unrest = Some(evil());
    observed.command.output = evil();
    observed.timers[0].due[0].by = Some(evil());
    observed.isolated[0].other = [(evil(), 2)].into();
    let durations = observed.isolated[0].durations.as_mut().unwrap();
    durations.causes[0].cause = Some(evil());
    let document = parsed(&report);
    assert_alone(&document);
    let places = [
        ".lede",
        ".warning",
        ".why th",
        ".long th",
        ".kinds",
        ".cause summary b",
        ".chain code",
        "pre.wrap",
    ];
    assert_shown(&document, SHOWN, &places);
}

#[test]
fn the_page_is_in_order_for_who_cannot_see_it() {
    assert_in_order(&parsed(&specimen::observed()));
}
