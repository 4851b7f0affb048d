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
    fn each_cause_has_one_and_it_has_a_source() {
        let causes = Causes::built_in().expect("a table");
        let known: BTreeSet<&str> = causes.names().collect();
        let advice = advice().expect("a table");
        let given: Vec<&str> = advice.iter().map(|one| &*one.cause).collect();
        let distinct: BTreeSet<&str> = given.iter().copied().collect();
        assert_eq!(distinct, known);
        assert_eq!(given.len(), known.len(), "one each");
        for one in &advice {
            assert!(!one.what.is_empty() && !one.source.is_empty(), "{one:?}");
        }
    }

    #[test]
    fn a_user_tlb_flush_may_be_for_a_process_that_the_cpu_has_left_and_the_commit_is_named() {
        let all = advice().expect("a table");
        let flush = all.iter().find(|one| one.cause == "user TLB flush");
        let Advice { what, source, .. } = flush.expect("one");
        for words in ["Since 6.14", "a process that it has left", "tlb:tlb_flush"] {
            assert!(what.contains(words), "{what}");
        }
        assert!(source.contains("209954cbc7d0"), "{source}");
    }

    #[test]
    fn where_nothing_can_be_done_the_reason_stands_beside_it() {
        for one in advice().expect("a table") {
            let Some(rest) = one.what.strip_prefix("nothing") else {
                continue;
            };
            let reason = rest.split_once([':', ',']).or(rest.split_once(" for "));
            assert!(reason.is_some_and(|(_, why)| why.len() > 20), "{one:?}");
        }
    }
}
