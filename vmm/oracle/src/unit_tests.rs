//! What the images of kvm-unit-tests print, read: one line a test, then a summary (their lib/report.c).

use std::fmt;

/// What became of one test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitOutcome {
    /// As it should.
    Pass,
    /// Not as it should, and nobody expected that; or it was expected and did not come.
    Fail,
    /// Not as it should, as was expected.
    ExpectedFail,
    /// Not run.
    Skip,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitTest {
    /// Its name, with its prefixes.
    pub name: String,
    /// What became of it.
    pub outcome: UnitOutcome,
}

/// All that an image printed and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitReport {
    /// By name, in the order in which they were printed.
    pub tests: Vec<UnitTest>,
    /// How many there were, as the summary says; `None`: there was no summary.
    pub summary: Option<usize>,
    /// What was written to the port of the device isa-debug-exit, if anything was.
    pub code: Option<u32>,
}

/// How a line begins, and what that means.
const LINES: [(&str, UnitOutcome); 5] = [
    ("PASS: ", UnitOutcome::Pass),
    ("FAIL: ", UnitOutcome::Fail),
    ("XPASS: ", UnitOutcome::Fail),
    ("XFAIL: ", UnitOutcome::ExpectedFail),
    ("SKIP: ", UnitOutcome::Skip),
];

impl UnitReport {
    /// From the console's lines, and the code with which it ended.
    #[must_use]
    pub fn read<'a>(lines: impl IntoIterator<Item = &'a str>, code: Option<u32>) -> Self {
        let mut report = Self {
            tests: vec![],
            summary: None,
            code,
        };
        for line in lines {
            let test = LINES.iter().find_map(|(begins, outcome)| {
                let name = line.strip_prefix(begins)?.to_owned();
                let outcome = *outcome;
                Some(UnitTest { name, outcome })
            });
            report.tests.extend(test);
            if let Some(rest) = line.strip_prefix("SUMMARY: ") {
                let number = rest.split_whitespace().next();
                report.summary = number.and_then(|number| number.parse().ok());
            }
        }
        report
    }

    /// QEMU's exit code for what the image wrote to the device isa-debug-exit, which is what the scripts of
    /// kvm-unit-tests look at.
    #[must_use]
    pub fn qemu_code(&self) -> Option<u32> {
        self.code.map(|code| code << 1 | 1)
    }

    /// What is wrong, one line each; nothing if all passed and nothing is missing. Tests named in `known` may fail.
    #[must_use]
    pub fn faults(&self, known: &[&str]) -> Vec<String> {
        let mut faults = Vec::new();
        let failed = |test: &&UnitTest| test.outcome == UnitOutcome::Fail;
        let mut excused = false;
        for test in self.tests.iter().filter(failed) {
            if known.contains(&test.name.as_str()) {
                excused = true;
            } else {
                faults.push(format!("FAIL: {}", test.name));
            }
        }
        let seen = self.tests.len();
        match self.summary {
            None => faults.push(format!("no summary after {seen} tests: it did not end")),
            // Passes of some loops are counted without a line of their own.
            Some(number) if number < seen => {
                faults.push(format!("{seen} tests, and {number} by the summary"));
            }
            Some(_) => {}
        }
        match self.code {
            Some(0) => {}
            // 77, "skipped", halved by the image.
            Some(38)
                if self
                    .tests
                    .iter()
                    .all(|test| test.outcome == UnitOutcome::Skip) => {}
            Some(1) if excused => {}
            Some(code) => faults.push(format!("it ended with code {code}")),
            None => faults.push("it ended without a code".to_owned()),
        }
        faults
    }
}

impl fmt::Display for UnitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for test in &self.tests {
            writeln!(f, "{:12?} {}", test.outcome, test.name)?;
        }
        let or = |number: Option<u32>| number.map_or("none".to_owned(), |n| n.to_string());
        writeln!(f, "code {}, QEMU's {}", or(self.code), or(self.qemu_code()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "enabling apic\nPASS: apic existence\nFAIL: xapic: self ipi\n\
                        SKIP: pv ipi\nXFAIL: old\nINFO: nothing\nSUMMARY: 4 tests, 1 unexpected failures";

    fn report(text: &str, code: u32) -> UnitReport {
        UnitReport::read(text.lines(), Some(code))
    }

    #[test]
    fn each_test_has_its_name_and_outcome() {
        let report = report(TEXT, 1);
        let tests: Vec<_> = report
            .tests
            .iter()
            .map(|test| (test.name.as_str(), test.outcome))
            .collect();
        assert_eq!(
            tests,
            [
                ("apic existence", UnitOutcome::Pass),
                ("xapic: self ipi", UnitOutcome::Fail),
                ("pv ipi", UnitOutcome::Skip),
                ("old", UnitOutcome::ExpectedFail),
            ]
        );
        assert_eq!((report.summary, report.qemu_code()), (Some(4), Some(3)));
    }

    #[test]
    fn a_failure_a_missing_summary_and_a_code_are_faults() {
        let failed = ["FAIL: xapic: self ipi", "it ended with code 1"];
        assert_eq!(report(TEXT, 1).faults(&[]), failed);
        assert_eq!(report(TEXT, 1).faults(&["xapic: self ipi"]), [""; 0]);
        assert_eq!(report("PASS: a\nSUMMARY: 1 tests", 0).faults(&[]), [""; 0]);
        assert_eq!(
            report("PASS: a", 0).faults(&[]),
            ["no summary after 1 tests: it did not end"]
        );
        assert_eq!(
            report("PASS: a\nPASS: b\nSUMMARY: 1 tests", 0).faults(&[]),
            ["2 tests, and 1 by the summary"]
        );
        assert_eq!(
            report("PASS: a\nSUMMARY: 1 tests", 7).faults(&[]),
            ["it ended with code 7"]
        );
        let silent = UnitReport::read([], None);
        assert_eq!(silent.faults(&[]).len(), 2);
    }

    #[test]
    fn all_skipped_is_no_fault_and_some_is() {
        let text = "SKIP: a\nSUMMARY: 1 tests, 1 skipped";
        assert_eq!(report(text, 38).faults(&[]), [""; 0]);
        let text = "PASS: b\nSKIP: a\nSUMMARY: 2 tests, 1 skipped";
        assert_eq!(report(text, 38).faults(&[]), ["it ended with code 38"]);
    }
}
