//! A result in other people's formats: one file a format.
//!
//! What this crate does not do: judge (`ipirig-rig` does, and has the result as its own JSON and as
//! text for a terminal), decide when a report is written, or open files (`ipirig` does).

#![forbid(unsafe_code)]

mod cause;
mod html;
#[cfg(test)]
mod specimen;
mod trace;

pub use html::{HtmlError, Made, html};
pub use trace::chrome_trace;
