//! A sweep as KTAP, as JUnit XML and as a web page. A path with an event is a test; each point that is
//! violated or an error is told of in it.

use std::fmt::Write as _;
use std::time::Duration;

use ipirig_sweep::{EventName, PointResult, Status, SweepResult};
use ipirig_verdict::check::Verdict;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::junit::JunitError;
use crate::ktap::{diagnostic, result as line};

const STYLE: &str = "body{font:14px sans-serif;margin:2em;max-width:75em}\
pre{background:#f4f4f4;padding:.6em;overflow-x:auto}\
.strip{line-height:0;margin:.3em 0 1em}\
.strip a,.strip i{display:inline-block;width:8px;height:18px;margin:0 1px 1px 0;background:#9c9}\
.strip .missed{background:#ddd}.strip .error{background:#e90}\
.strip .violated{background:#d00;height:24px}";

/// A path and an event: its name, verdict, and what is to be said of it.
struct Strip<'r> {
    name: String,
    verdict: Verdict,
    summary: String,
    points: Vec<&'r PointResult>,
}

fn strips(result: &SweepResult) -> Vec<Strip<'_>> {
    let strip = |((path, event), points): ((String, EventName), Vec<_>)| {
        let tally = SweepResult::tally(&points);
        let verdict = if tally.violated > 0 {
            Verdict::Violated
        } else if tally.errors > 0 {
            Verdict::Error
        } else if tally.hit == 0 {
            Verdict::Skipped
        } else {
            Verdict::Held
        };
        Strip {
            name: format!("{event}@{path}"),
            verdict,
            summary: format!(
                "{} hit, {} missed, {} violated, {} errors",
                tally.hit, tally.missed, tally.violated, tally.errors
            ),
            points,
        }
    };
    let mut all: Vec<Strip<'_>> = result.strips().into_iter().map(strip).collect();
    // What a sweep could not come to is no less than what it found.
    for path in &result.paths {
        if let Some(why) = &path.why {
            all.push(Strip {
                name: path.path.clone(),
                verdict: Verdict::Error,
                summary: format!("not traced: {why}"),
                points: vec![],
            });
        }
    }
    if !result.complete {
        let why = result.why.as_deref().unwrap_or("not complete");
        all.push(Strip {
            name: "complete".to_owned(),
            verdict: match Verdict::of(result) {
                Verdict::Skipped => Verdict::Skipped,
                _ => Verdict::Error,
            },
            summary: why.to_owned(),
            points: vec![],
        });
    }
    all
}

impl Strip<'_> {
    /// A line for each invariant that does not hold, and each point of which nothing can be said.
    fn lines(&self) -> Vec<String> {
        let of = |point: &&PointResult| {
            let violations = point.violations.iter().map(|violation| {
                let number = violation.invariant.number();
                let (at, words) = (&violation.at, &violation.words);
                format!("{}: invariant {number}: {at} {words}", point.point)
            });
            let error = point.why.iter();
            let error = error.map(|why| format!("{}: error: {why}", point.point));
            violations.chain(error).collect::<Vec<_>>()
        };
        self.points.iter().flat_map(of).collect()
    }
}

/// The sweep as one KTAP stream, with a newline at its end.
#[must_use]
pub fn ktap(result: &SweepResult) -> String {
    let strips = strips(result);
    let mut out = format!("KTAP version 1\n1..{}\n", strips.len());
    for (number, strip) in (1..).zip(&strips) {
        let name = &strip.name;
        diagnostic(&mut out, "", name, &strip.summary);
        for text in strip.lines() {
            diagnostic(&mut out, "", name, &text);
        }
        line(&mut out, "", number, name, strip.verdict, &strip.summary);
    }
    out
}

/// The sweep as JUnit XML, with a newline at its end.
///
/// # Errors
///
/// [`JunitError`], which only a bug could cause.
pub fn junit(result: &SweepResult) -> Result<String, JunitError> {
    let time = Duration::try_from_secs_f64(result.timing.total_s).unwrap_or_default();
    let mut suite = TestSuite::new("sweep");
    suite.set_time(time);
    for strip in strips(result) {
        let failed = |kind| {
            let mut status = TestCaseStatus::non_success(kind);
            status
                .set_message(strip.summary.as_str())
                .set_description(strip.lines().join("\n"));
            status
        };
        let status = match strip.verdict {
            Verdict::Held => TestCaseStatus::success(),
            Verdict::Violated => failed(NonSuccessKind::Failure),
            Verdict::Error => failed(NonSuccessKind::Error),
            Verdict::Skipped => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(strip.summary.as_str());
                status
            }
        };
        let mut case = TestCase::new(strip.name.as_str(), status);
        case.set_classname("sweep");
        suite.add_test_case(case);
    }
    let mut report = Report::new("ipirig");
    report.set_time(time);
    report.add_test_suite(suite);
    let mut xml = report.to_string().map_err(JunitError)?;
    if !xml.ends_with('\n') {
        xml.push('\n');
    }
    Ok(xml)
}

/// The sweep as a web page: a strip for each path and event, a cell an instruction. A cell that is violated
/// leads to what is wrong there.
#[must_use]
pub fn html(result: &SweepResult) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\"><title>ipirig sweep: {verdict}</title>\
         <style>{STYLE}</style>\n<h1>Sweep: {verdict}</h1>\n",
        verdict = escaped(&result.verdict)
    );
    let kernel = result.kernel.as_deref().unwrap_or_default();
    let _ = writeln!(out, "<p>{}</p>", escaped(kernel.trim()));
    for strip in strips(result) {
        let (name, summary) = (escaped(&strip.name), escaped(&strip.summary));
        let _ = write!(
            out,
            "<h2>{name}</h2>\n<p>{summary}</p>\n<div class=\"strip\">"
        );
        for point in &strip.points {
            cell(&mut out, result, point);
        }
        out.push_str("</div>\n");
        for point in &strip.points {
            if matches!(point.status, Status::Violated | Status::Error) {
                explained(&mut out, result, point);
            }
        }
    }
    out.push_str("</html>\n");
    out
}

fn cell(out: &mut String, result: &SweepResult, point: &PointResult) {
    let class = match point.status {
        Status::Held => "held",
        Status::Violated => "violated",
        Status::Missed => "missed",
        Status::Error => "error",
    };
    let path = point.point.path.to_string();
    let instruction = result
        .paths
        .iter()
        .find(|it| it.path == path)
        .and_then(|path| path.instructions.get(point.point.number));
    let about = instruction.map_or_else(String::new, |it| format!(" {}: {}", it.address, it.text));
    let rule = point
        .rule
        .map_or_else(String::new, |rule| format!(" ({rule})"));
    let name = point.point.to_string();
    let title = escaped(&format!("{name}{about}{rule}"));
    let _ = match point.status {
        Status::Violated | Status::Error => write!(
            out,
            "<a class=\"{class}\" href=\"#{}\" title=\"{title}\"></a>",
            escaped(&name)
        ),
        Status::Held | Status::Missed => {
            write!(out, "<i class=\"{class}\" title=\"{title}\"></i>")
        }
    };
}

fn explained(out: &mut String, result: &SweepResult, point: &PointResult) {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = super::explain_point(&mut text, result, point, crate::paint::Paint::PLAIN);
    let name = point.point.to_string();
    let _ = writeln!(
        out,
        "<pre id=\"{}\">{}</pre>",
        escaped(&name),
        escaped(text.trim())
    );
}

/// `text` with nothing that means something in HTML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() && c != '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
