//! The JSON Schema of a scenario file, from the types that are read and what their keys may be.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use serde_json::Value;

use crate::raw::RawScenario;

/// The schema (JSON Schema, draft 2020-12), indented, with a newline at its end. A file that does not fit it
/// is refused; one that fits may be refused for what a schema cannot say, such as a storm without the size
/// that it needs.
///
/// # Errors
///
/// serde_json's; nothing here can cause one.
pub fn schema() -> Result<String, serde_json::Error> {
    let settings =
        SchemaSettings::draft2020_12().with_transform(RecursiveTransform(without_null_default));
    let mut schema = settings
        .into_generator()
        .into_root_schema_for::<RawScenario>();
    schema.insert(
        "$id".to_owned(),
        Value::String("urn:ipirig:scenario".to_owned()),
    );
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// What may be left out and has no default is not there.
fn without_null_default(schema: &mut Schema) {
    if schema.get("default") == Some(&Value::Null) {
        schema.remove("default");
    }
}

#[cfg(test)]
mod tests {
    use jsonschema::Validator;

    use super::*;
    use crate::storm::{Kind, Storm};
    use crate::{EntryKind, builtin};

    fn parsed() -> Value {
        serde_json::from_str(&schema().unwrap()).unwrap()
    }

    fn fits(validator: &Validator, text: &str) -> bool {
        let file: toml::Value = toml::from_str(text).unwrap();
        validator.is_valid(&serde_json::to_value(file).unwrap())
    }

    #[test]
    fn each_built_in_scenario_fits_and_what_validation_refuses_does_not() {
        let validator = jsonschema::validator_for(&parsed()).unwrap();
        for (stem, text) in builtin::FILES {
            assert!(fits(&validator, text), "{stem}");
        }
        let (_, good) = builtin::FILES
            .iter()
            .find(|(stem, _)| *stem == "vunmap-storm")
            .unwrap();
        for (from, to) in [
            ("operations = 100", "operations = 0"),
            ("operations = 100", "opertions = 100"),
            ("kind = \"vunmap\"", "kind = \"vunmaps\""),
            ("housekeeping = 1", "housekeeping = 64"),
            ("name = \"vunmap-storm\"", "name = \"Vunmap storm\""),
        ] {
            let bad = good.replacen(from, to, 1);
            assert_ne!(&bad, good, "{from}");
            assert!(!fits(&validator, &bad), "{to}");
            assert!(crate::Scenario::parse("x.toml", &bad).is_err(), "{to}");
        }
    }

    /// `path.key` of each key, tables within tables.
    fn keys(schema: &Value, of: &Value, before: &str, found: &mut Vec<String>) {
        let target = of["$ref"].as_str().and_then(|to| to.rsplit('/').next());
        let of = target.map_or(of, |name| &schema["$defs"][name]);
        for (key, value) in of["properties"].as_object().into_iter().flatten() {
            let path = format!("{before}{key}");
            let known = found.len();
            keys(schema, value, &format!("{path}."), found);
            if found.len() == known {
                found.push(path);
            }
        }
    }

    #[test]
    fn the_catalogue_says_what_each_key_is() {
        let schema = parsed();
        let mut all = Vec::new();
        keys(&schema, &schema, "", &mut all);
        assert!(all.contains(&"storm.kind".to_owned()), "{all:?}");
        let text = include_str!("../../../scenarios/README.md");
        let absent = all
            .iter()
            .filter(|key| !text.contains(&format!("| `{key}` |")));
        assert_eq!(absent.collect::<Vec<_>>(), [""; 0], "scenarios/README.md");
        let entries = EntryKind::ALL.map(EntryKind::name).into_iter();
        let named = entries.filter(|name| !text.contains(&format!("`{name}`")));
        assert_eq!(named.collect::<Vec<_>>(), [""; 0], "scenarios/README.md");
    }

    #[test]
    fn each_kind_of_storm_has_its_row_in_the_readme_with_its_sizes_and_what_it_needs() {
        let text = include_str!("../../../scenarios/README.md");
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
            .collect();
        let row = |kind: &Kind| {
            let name = format!("`{}`", kind.name);
            let of = |row: &&Vec<&str>| row.len() == 4 && row[0].split(", ").any(|it| it == name);
            let row = rows.iter().find(of)?;
            let sizes: Vec<&str> = row[2].split(' ').take(3).collect();
            Some((kind.name, sizes.join(" "), row[3]))
        };
        let expected = |kind: Kind| {
            let sizes = kind.sizes();
            let sizes = sizes.map(|sizes| format!("{} to {}", sizes.start(), sizes.end()));
            let storm = Storm {
                kind,
                operations: 1,
                size: 1,
            };
            let module = if storm.needs_module() { "yes" } else { "no" };
            Some((kind.name, sizes.unwrap_or_default(), module))
        };
        for kind in Kind::all() {
            assert_eq!(row(&kind), expected(kind), "scenarios/README.md");
        }
    }

    #[test]
    fn each_scenario_is_named_in_its_group_s_row_of_the_readme() {
        let text = include_str!("../../../scenarios/README.md");
        let absent = builtin::FILES.iter().filter(|(stem, file)| {
            let group = crate::Scenario::parse(stem, file).unwrap().group;
            let start = format!("| `{group}`");
            let mut rows = text.lines().filter(|line| line.starts_with(&start));
            let names = |row: &str| row.split([' ', ',', ':']).any(|word| word == *stem);
            !rows.any(names)
        });
        let absent: Vec<&str> = absent.map(|(stem, _)| *stem).collect();
        assert_eq!(absent, [""; 0], "scenarios/README.md");
    }
}
