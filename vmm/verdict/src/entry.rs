//! An entry of an isolated vCPU, as a result has it.

use std::sync::Arc;

pub use ipirig_entry::Extent;
use ipirig_entry::{Audit, KernelLayout, Record, listing};

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
    /// The record.
    pub(crate) record: Option<Record>,
    /// The kernel that it is about.
    pub(crate) layout: Option<Arc<KernelLayout>>,
}

impl RecordedEntry {
    /// The instructions, annotated; `None` if they were not recorded or could not be judged.
    #[must_use]
    pub fn listing(&self, extent: Extent) -> Option<String> {
        let (record, layout) = (self.record.as_ref()?, self.layout.as_ref()?);
        Some(listing(record, layout, self.audit.as_ref()?, extent))
    }
}
