//! The document of an observation.

use ipirig_observation::{Observation, Report};
use serde::Serialize;

use crate::RunDocument;

/// All there is to say about an observation: a run's fields, and beside them these.
#[derive(Clone, Debug, Serialize)]
pub struct ObservationDocument<'a> {
    /// As of any run. `held`: the observation is complete, and its checks hold.
    #[serde(flatten)]
    pub run: RunDocument<'a>,
    /// What was observed; absent if it did not come to that.
    pub observation: Option<&'a Observation>,
}

impl<'a> From<&'a Report> for ObservationDocument<'a> {
    fn from(report: &'a Report) -> Self {
        Self {
            run: (&report.run).into(),
            observation: report.observation.as_ref(),
        }
    }
}

impl ObservationDocument<'_> {
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

    use ipirig_fake::{Observing, Script, observation_plan, observe};
    use ipirig_rig::run::KernelFiles;
    use ipirig_verdict::result::KernelInfo;

    use super::*;

    #[test]
    fn json_has_a_run_s_fields_and_the_observation_beside_them() {
        let script = Script {
            command_operations: 1,
            ipis_per_operation: 3,
            timers: 1,
            ..Script::default()
        };
        let Observing {
            plan,
            outcome,
            ledger,
            ..
        } = observe(&observation_plan(), script);
        let files = KernelFiles::new("k", "i");
        let kernel = KernelInfo::new(&files, "");
        let report = Report::new(&plan, outcome, kernel, &ledger);
        let json = ObservationDocument::from(&report).to_json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["schema_version"], 3);
        assert_eq!(json["scenario"]["storm"], "load fork");
        let observation = &json["observation"];
        assert_eq!(
            observation["command"]["words"],
            serde_json::json!(["load", "fork"])
        );
        assert_eq!(observation["isolated"][0]["ipis"]["call-function"], 3);
        assert_eq!(observation["origins"][0]["targets"]["2"], 3);
    }
}
