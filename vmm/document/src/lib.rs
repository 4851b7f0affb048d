//! Results as they are written, alone, as a [`suite`] or as the [`strip`]s of a sweep: JSON, and the [`schema`] of it.
//!
//! The way through: a result (`ipirig-verdict`) → its document, which has what others may rely on and nothing
//! besides → JSON. Field names are an interface: they change only together with [`SCHEMA_VERSION`].
//!
//! What this crate does not do: read documents (`ipirig-gate` does, as much as it compares), or write files
//! (`ipirig` does). Sweeps and audits are documents as they are (`ipirig-sweep`, `ipirig-audit`).

#![forbid(unsafe_code)]

mod observation;
mod run;
pub mod schema;
pub mod strip;
pub mod suite;
mod suite_document;

pub use observation::ObservationDocument;
pub use run::{Blame, EntryDocument, RunDocument, ScenarioDocument};
pub use suite_document::SuiteDocument;

use serde::Serialize;

/// Version of the JSON's layout.
pub const SCHEMA_VERSION: u32 = 3;

/// A document as indented JSON with a newline at its end.
fn json<T: Serialize>(document: &T) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(document)? + "\n")
}
