//! The JSON Schema of what `--json` writes, from the types that are written.

use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::{RunDocument, SCHEMA_VERSION, SuiteDocument};

/// What `ipirig run --json` writes.
#[derive(JsonSchema)]
#[schemars(untagged, title = "Result of ipirig")]
#[expect(dead_code, reason = "only its schema is wanted")]
enum Document {
    /// Of several scenarios.
    Suite(SuiteDocument<'static>),
    /// Of one.
    Run(Box<RunDocument<'static>>),
}

/// The schema (JSON Schema, draft 2020-12), indented, with a newline at its end. `results/schema.json`
/// is this.
///
/// # Errors
///
/// serde_json's; nothing here can cause one.
pub fn schema() -> Result<String, serde_json::Error> {
    of::<Document>(&format!("urn:ipirig:result:{SCHEMA_VERSION}"))
}

/// The same of what `ipirig audit --json` writes. `results/audit-schema.json` is this.
///
/// # Errors
///
/// serde_json's; nothing here can cause one.
pub fn audit() -> Result<String, serde_json::Error> {
    let version = ipirig_audit::SCHEMA_VERSION;
    of::<ipirig_audit::Audit>(&format!("urn:ipirig:audit:{version}"))
}

/// The same of what `ipirig sweep --json` writes. `results/sweep-schema.json` is this.
///
/// # Errors
///
/// serde_json's; nothing here can cause one.
pub fn sweep() -> Result<String, serde_json::Error> {
    let version = ipirig_sweep::result::SCHEMA_VERSION;
    of::<ipirig_sweep::SweepResult>(&format!("urn:ipirig:sweep:{version}"))
}

fn of<T: JsonSchema>(id: &str) -> Result<String, serde_json::Error> {
    let settings = SchemaSettings::draft2020_12()
        .for_serialize()
        .with_transform(RecursiveTransform(plain_words));
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("$id".to_owned(), Value::String(id.to_owned()));
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// Descriptions are doc comments; links to items mean nothing outside of them.
fn plain_words(schema: &mut Schema) {
    if let Some(Value::String(words)) = schema.get_mut("description") {
        *words = words.replace("[`", "`").replace("`]", "`");
    }
}

#[cfg(test)]
mod tests {
    use ipirig_checks::{self as checks, check};
    use ipirig_fake::{Script, evidence, plan};
    use ipirig_verdict::result::RunResult;

    use crate::suite::Suite;

    use super::*;

    const COMMITTED: &str = include_str!("../../../results/schema.json");

    fn parsed(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    fn result(scenario: &str, script: Script) -> RunResult {
        let (plan, evidence) = evidence(scenario, None, script);
        let (checks, entries) = checks::judge(&plan, &evidence);
        let mut result = RunResult::new(&plan, checks).with_evidence(&plan, &evidence);
        result.entries = entries;
        result
    }

    #[test]
    fn the_committed_schema_is_that_of_the_types() {
        assert_eq!(
            parsed(COMMITTED),
            parsed(&schema().unwrap()),
            "renew it: cargo run --release -- schema > results/schema.json"
        );
    }

    #[test]
    fn the_committed_schema_of_audits_is_that_of_the_types() {
        assert_eq!(
            parsed(include_str!("../../../results/audit-schema.json")),
            parsed(&audit().unwrap()),
            "renew it: cargo run --release -- schema audit > results/audit-schema.json"
        );
    }

    #[test]
    fn the_committed_schema_of_sweeps_is_that_of_the_types() {
        assert_eq!(
            parsed(include_str!("../../../results/sweep-schema.json")),
            parsed(&sweep().unwrap()),
            "renew it: cargo run --release -- schema sweep > results/sweep-schema.json"
        );
    }

    #[test]
    fn what_is_written_fits_the_schema() {
        let validator = jsonschema::validator_for(&parsed(COMMITTED)).unwrap();
        let skipped = check::Check {
            name: check::RUN,
            status: check::Verdict::Skipped,
            evidence: "no /dev/kvm".to_owned(),
        };
        let runs = vec![
            result("static-key-flip", Script::default()),
            result("entry-matrix", Script::default()),
            RunResult::new(&plan("vunmap-storm", None), vec![skipped]),
        ];
        assert_eq!(runs[1].entries.len(), 16);
        for run in &runs {
            let json = parsed(&RunDocument::from(run).to_json().unwrap());
            let errors: Vec<String> = validator
                .iter_errors(&json)
                .map(|error| error.to_string())
                .collect();
            assert_eq!(errors, [""; 0], "{json}");
        }
        let suite = Suite::new(runs);
        let suite = parsed(&SuiteDocument::from(&suite).to_json().unwrap());
        assert!(validator.is_valid(&suite));
    }

    /// Whether a result with the value at `pointer` replaced fits.
    fn fits_with(pointer: &str, value: Value) -> bool {
        let validator = jsonschema::validator_for(&parsed(COMMITTED)).unwrap();
        let result = result("static-key-flip", Script::default());
        let mut json = parsed(&RunDocument::from(&result).to_json().unwrap());
        *json.pointer_mut(pointer).unwrap() = value;
        validator.is_valid(&json)
    }

    #[test]
    fn what_is_never_written_does_not_fit() {
        let unfit = [
            ("/schema_version", Value::from(SCHEMA_VERSION + 1)),
            ("/verdict", "fine".into()),
            ("/checks/0/status", Value::Null),
            ("/vcpus/2/window/ipis_targeted", (-1).into()),
            ("/vcpus/2/window/by_source", serde_json::json!({"a": 1})),
            ("/timing", serde_json::json!({})),
        ];
        for (pointer, value) in unfit {
            assert!(!fits_with(pointer, value), "{pointer}");
        }
        assert!(fits_with("/verdict", "error".into()));
    }
}
