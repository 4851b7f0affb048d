//! A sweep as KTAP and as JUnit XML. A path with an event is a test; each point that is
//! violated or an error is told of in it.

use std::time::Duration;

use ipirig_checks::check::Verdict;
use ipirig_document::strip::strips;
use ipirig_sweep::SweepResult;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use crate::junit::JunitError;
use crate::ktap::{diagnostic, result as line};

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

#[cfg(test)]
mod tests;
