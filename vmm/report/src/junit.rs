//! JUnit XML, as test reports are shown by GitLab, Jenkins and others: a suite a scenario, a case a
//! check.

use std::time::Duration;

use ipirig_checks::check::{Check, Verdict};
use ipirig_verdict::result::RunResult;
use quick_junit::{NonSuccessKind, Report, SerializeError, TestCase, TestCaseStatus, TestSuite};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the results as JUnit XML")]
pub struct JunitError(#[source] pub(crate) SerializeError);

/// The results as JUnit XML, with a newline at its end.
///
/// # Errors
///
/// [`JunitError`], which only a bug could cause.
pub fn junit(runs: &[RunResult]) -> Result<String, JunitError> {
    let mut report = Report::new("ipirig");
    report.set_time(runs.iter().map(took).sum());
    report.add_test_suites(runs.iter().map(suite));
    let mut xml = report.to_string().map_err(JunitError)?;
    if !xml.ends_with('\n') {
        xml.push('\n');
    }
    Ok(xml)
}

fn took(run: &RunResult) -> Duration {
    Duration::try_from_secs_f64(run.timing.total_s).unwrap_or_default()
}

fn suite(run: &RunResult) -> TestSuite {
    let mut suite = TestSuite::new(run.scenario.name.as_str());
    suite.set_time(took(run));
    for (name, value) in properties(run) {
        suite.add_property((name, value.as_str()));
    }
    suite.add_test_cases(run.checks.iter().map(|check| case(run, check)));
    if let Some(report) = &run.report {
        suite.set_system_err(report.as_str());
    }
    suite
}

fn properties(run: &RunResult) -> Vec<(&'static str, String)> {
    let deferral = if run.scenario.deferral { "on" } else { "off" };
    let mut properties = vec![
        ("verdict", run.verdict.to_string()),
        ("group", run.scenario.group.clone()),
        ("storm", run.scenario.storm.clone()),
        ("deferral", deferral.to_owned()),
    ];
    if run.isolation_only {
        properties.push(("isolation_only", "true".to_owned()));
    }
    if let Some(kernel) = &run.kernel {
        let known = [
            ("kernel", &kernel.release),
            ("package", &kernel.package),
            ("series", &kernel.series),
        ];
        let known = known
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.clone()?)));
        properties.extend(known);
        properties.push(("cmdline", kernel.cmdline.clone()));
    }
    if let Some(machine) = &run.machine {
        properties.push(("apic", machine.apic.clone()));
    }
    properties
}

fn case(run: &RunResult, check: &Check) -> TestCase {
    let status = match check.status {
        Verdict::Held => TestCaseStatus::success(),
        Verdict::Violated => failed(NonSuccessKind::Failure, check),
        Verdict::Error => failed(NonSuccessKind::Error, check),
        Verdict::Skipped => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(check.evidence.as_str());
            status
        }
    };
    let mut case = TestCase::new(check.name, status);
    // Readers tell cases apart by class and name.
    case.set_classname(run.scenario.name.as_str());
    if check.status == Verdict::Held {
        case.set_system_out(check.evidence.as_str());
    }
    case
}

fn failed(kind: NonSuccessKind, check: &Check) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status
        .set_type(check.name)
        .set_message(check.evidence.lines().next().unwrap_or_default())
        .set_description(check.evidence.as_str());
    status
}

#[cfg(test)]
mod tests {
    use quick_junit::XmlString;

    use super::*;
    use crate::testing::runs;

    /// Class, name, status, and the words that come with it.
    fn cases(report: &Report) -> Vec<(String, String, &'static str, String)> {
        let text = |text: &Option<XmlString>| {
            let text = text.as_ref().map(XmlString::as_str);
            text.unwrap_or_default().to_owned()
        };
        let row = |case: &TestCase| {
            let (status, words) = match &case.status {
                TestCaseStatus::Success { .. } => ("held", text(&case.system_out)),
                TestCaseStatus::NonSuccess {
                    kind, description, ..
                } => (
                    match kind {
                        NonSuccessKind::Failure => "violated",
                        NonSuccessKind::Error => "error",
                    },
                    text(description),
                ),
                TestCaseStatus::Skipped { message, .. } => ("skipped", text(message)),
            };
            (
                text(&case.classname),
                case.name.as_str().to_owned(),
                status,
                words,
            )
        };
        report
            .test_suites
            .iter()
            .flat_map(|suite| suite.test_cases.iter().map(row))
            .collect()
    }

    #[test]
    fn a_reader_finds_every_check_with_its_status_and_evidence() {
        let runs = runs();
        let report = Report::deserialize_from_str(&junit(&runs).unwrap()).unwrap();
        let expected: Vec<_> = runs
            .iter()
            .flat_map(|run| run.checks.iter().map(move |check| (run, check)))
            .map(|(run, check)| {
                (
                    run.scenario.name.clone(),
                    check.name.to_owned(),
                    match check.status {
                        Verdict::Held => "held",
                        Verdict::Violated => "violated",
                        Verdict::Error => "error",
                        Verdict::Skipped => "skipped",
                    },
                    // Terminal codes are dropped, and lines end as in XML 1.0 (section 2.11).
                    check.evidence.replace("\x1b[1m", "").replace("\r\n", "\n"),
                )
            })
            .collect();
        assert_eq!(cases(&report), expected);
        let counts: Vec<_> = report
            .test_suites
            .iter()
            .map(|s| (s.tests, s.failures, s.errors, s.skipped))
            .collect();
        assert_eq!(
            counts,
            [(5, 0, 0, 1), (3, 1, 1, 0), (1, 0, 1, 0), (1, 0, 0, 1)]
        );
        assert_eq!((report.tests, report.failures, report.errors), (10, 1, 2));
    }

    #[test]
    fn what_was_run_is_in_the_properties_of_the_suite() {
        let report = Report::deserialize_from_str(&junit(&runs()).unwrap()).unwrap();
        let suite = &report.test_suites[1];
        let properties: Vec<(&str, &str)> = suite
            .properties
            .iter()
            .map(|property| (property.name.as_str(), property.value.as_str()))
            .collect();
        assert_eq!(
            properties,
            [
                ("verdict", "violated"),
                ("group", "tlb"),
                ("storm", "100 rounds of vmalloc and vfree, 8 pages each"),
                ("deferral", "on"),
                ("kernel", "6.12.1-test"),
                ("package", "6.12.117-1"),
                ("cmdline", "quiet ipi_deferral=off"),
            ]
        );
        assert_eq!(suite.time, Some(Duration::from_millis(12_250)));
        let only = |index: usize| {
            let mut properties = report.test_suites[index].properties.iter();
            properties.any(|p| (p.name.as_str(), p.value.as_str()) == ("isolation_only", "true"))
        };
        assert_eq!([0, 1, 2, 3].map(only), [true, false, false, false]);
    }
}
