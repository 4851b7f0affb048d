//! An entry of an isolated vCPU, as a result has it.

use ipirig_entry::{Audit, Listing};

/// The first entry of an isolated vCPU after a window.
#[derive(Clone, Debug)]
pub struct RecordedEntry {
    /// The vCPU.
    pub cpu: usize,
    /// The entry kind, by its name in scenario files.
    pub kind: &'static str,
    /// The entry kind, for a person.
    pub title: String,
    /// What the record says; absent if there is none.
    pub audit: Option<Audit>,
    /// Why there is no audit.
    pub why: Option<String>,
    /// The instructions, annotated; `None` if they were not recorded or could not be judged.
    pub listing: Option<Listing>,
}

#[cfg(test)]
mod tests {
    use ipirig_entry::Extent;
    use ipirig_fake::{Script, evidence};

    use crate::judge;

    #[test]
    fn an_entry_that_was_recorded_and_judged_is_listed_and_no_other() {
        let (plan, mut evidence) = evidence("static-key-flip", None, Script::default());
        let listed = |evidence: &_| {
            let listing = judge(&plan, evidence).1[0].listing.clone()?;
            Some(listing.text(Extent::Whole))
        };
        let text = listed(&evidence).unwrap_or_default();
        let (header, steps) = text.split_once('\n').unwrap();
        let expected = "CPU 2 enters the kernel by SYSCALL: catch-up by instruction 3, danger zone 2 instructions";
        assert_eq!((header, steps.matches("sysret").count()), (expected, 1));
        evidence.layout = Err("no vmlinux".to_owned());
        assert_eq!(listed(&evidence), None);
    }
}
