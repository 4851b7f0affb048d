mod contrast;

use askama::Template;
use ipirig_verdict::check::Verdict;

use super::view::{EntryView, Page};
use super::*;
use crate::specimen;
use scraper::{ElementRef, Html, Selector};

fn page(runs: &[RunResult]) -> String {
    let made = Provenance {
        command: Some("ipirig run static-key-flip --html 'a b.html'".into()),
        time: Some(SystemTime::UNIX_EPOCH),
    };
    html(runs, &made).unwrap()
}

/// The page as a browser reads it. A page that a browser has to mend is wrong.
fn parsed(page: &str) -> Html {
    let document = Html::parse_document(page);
    assert_eq!(document.errors, Vec::<std::borrow::Cow<str>>::new());
    document
}

fn select<'a>(document: &'a Html, selector: &str) -> Vec<ElementRef<'a>> {
    let selector = Selector::parse(selector).unwrap();
    document.select(&selector).collect()
}

/// The text of each element, with single spaces.
fn texts(document: &Html, selector: &str) -> Vec<String> {
    let words = |element: &ElementRef<'_>| {
        let text: String = element.text().collect();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    select(document, selector).iter().map(words).collect()
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
        "✗ violatedisolated-ipisvCPU 2: 2 IPIs (call-function 2) from vCPU 0, 1.00 per operation"
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
    let mut above = 0;
    for heading in select(&document, "h1, h2, h3, h4") {
        let level: u8 = heading.value().name()[1..].parse().unwrap();
        assert!(level <= above + 1, "{}", heading.html());
        above = level;
    }
    assert_eq!(select(&document, "h1").len(), 1);
    assert!(select(&document, "table").len() > 8);
    for table in select(&document, "table") {
        let caption = Selector::parse("caption").unwrap();
        assert!(table.select(&caption).next().is_some(), "{}", table.html());
    }
    for svg in select(&document, "svg") {
        let attr = |name| svg.value().attr(name);
        let named = attr("role") == Some("img") && attr("aria-label").is_some();
        assert!(
            named || attr("aria-hidden") == Some("true"),
            "{}",
            svg.html()
        );
    }
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
    let document = parsed(&page);
    assert!(
        select(
            &document,
            "[src], link, iframe, object, embed, img, base, form"
        )
        .is_empty()
    );
    for link in select(&document, "[href]") {
        assert!(link.value().attr("href").unwrap().starts_with('#'));
    }
    let policy = select(&document, "meta[http-equiv=Content-Security-Policy]");
    let policy = policy[0].value().attr("content").unwrap();
    assert_eq!(policy, "default-src 'none'; style-src 'unsafe-inline'");
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
    assert!(select(&document, "script, [onload], main style").is_empty());
    for place in [
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
    ] {
        let found = select(&document, place);
        let found = found
            .iter()
            .any(|element| element.text().collect::<String>().contains(SHOWN));
        assert!(found, "{place}");
    }
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
