//! The document of several runs.

use ipirig_checks::check::Verdict;
use schemars::JsonSchema;
use serde::Serialize;

use crate::suite::Suite;
use crate::{RunDocument, SCHEMA_VERSION};

/// The results of several runs.
#[derive(Clone, Debug, JsonSchema, Serialize)]
#[schemars(rename = "Suite")]
pub struct SuiteDocument<'a> {
    /// [`SCHEMA_VERSION`].
    #[schemars(extend("const" = SCHEMA_VERSION))]
    pub schema_version: u32,
    /// `violated` if one run is, else `error` if one is, else `skipped` if one is that may not be or if
    /// none is `held`, else `held`.
    pub verdict: Verdict,
    /// The names of the runs that may be skipped (`--allow-skipped`).
    pub may_skip: Vec<&'a str>,
    /// Each run's result, in the order in which they were run.
    pub runs: Vec<RunDocument<'a>>,
}

impl<'a> From<&'a Suite> for SuiteDocument<'a> {
    fn from(suite: &'a Suite) -> Self {
        let may_skip = suite.runs().iter().filter(|run| run.may_skip);
        Self {
            schema_version: SCHEMA_VERSION,
            verdict: suite.verdict(),
            may_skip: may_skip.map(|run| run.scenario.name.as_str()).collect(),
            runs: suite.runs().iter().map(Into::into).collect(),
        }
    }
}

impl SuiteDocument<'_> {
    /// Indented JSON with a newline at its end.
    ///
    /// # Errors
    ///
    /// serde_json's; none of the types here can cause one.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        crate::json(self)
    }
}

#[cfg(test)]
mod tests {
    use ipirig_checks::check::Check;
    use ipirig_fake::plan;
    use ipirig_verdict::result::RunResult;

    use super::*;

    #[test]
    fn it_has_the_verdict_the_runs_and_the_names_of_those_that_may_be_skipped() {
        let run = |scenario, verdict, may_skip| {
            let check = Check::new("run", verdict, "because");
            RunResult {
                verdict,
                may_skip,
                ..RunResult::new(&plan(scenario, None), vec![check])
            }
        };
        let suite = Suite::new(vec![
            run("static-key-flip", Verdict::Violated, false),
            run("vunmap-storm", Verdict::Skipped, true),
        ]);
        let json = SuiteDocument::from(&suite).to_json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["verdict"], "violated");
        assert_eq!(json["may_skip"], serde_json::json!(["vunmap-storm"]));
        assert_eq!(json["runs"][1]["scenario"]["name"], "vunmap-storm");
    }
}
