//! What can be done about a cause without another kernel. The table is data: `advice.toml`.

use serde::Deserialize;

const BUILT_IN: &str = include_str!("advice.toml");

/// What can be done about a cause.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advice {
    /// The cause's name, as [`Cause::name`](crate::Cause::name).
    pub cause: String,
    /// What to do.
    pub what: String,
    /// Where that is from.
    pub source: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    advice: Vec<Advice>,
}

/// All that is known.
///
/// # Errors
/// Never, as a test shows.
pub fn advice() -> Result<Vec<Advice>, toml::de::Error> {
    let table: Table = toml::from_str(BUILT_IN)?;
    Ok(table.advice)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::Causes;

    #[test]
    fn each_is_about_one_cause_of_the_table_and_has_a_source() {
        let causes = Causes::built_in().expect("a table");
        let known: BTreeSet<&str> = causes.names().collect();
        let advice = advice().expect("a table");
        let mut seen = BTreeSet::new();
        for one in &advice {
            assert!(known.contains(&*one.cause), "{one:?}");
            assert!(seen.insert(&one.cause), "twice: {one:?}");
            assert!(!one.what.is_empty() && !one.source.is_empty(), "{one:?}");
        }
        assert!(!advice.is_empty());
    }
}
