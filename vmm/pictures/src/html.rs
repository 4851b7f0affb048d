//! Runs as one web page that needs nothing else: no network, no script, no font.
//!
//! Text from a guest or a kernel file is hostile. The templates escape all that they are given, the
//! page forbids scripts to the browser (Content-Security-Policy), and characters that would change how
//! the text around them reads are replaced.

mod facts;
mod matrix;
mod observation;
mod picture;
mod view;
mod words;

use std::time::SystemTime;

use askama::Template;
use ipirig_verdict::result::RunResult;

pub use observation::observation;
use view::Page;

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the web page")]
pub struct HtmlError(#[source] pub(crate) askama::Error);

/// What a page says of its making.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// The command line, for whoever wants to do it again.
    pub command: Option<String>,
    /// When.
    pub time: Option<SystemTime>,
}

/// The page: of one run, or of several with a table of them before.
///
/// # Errors
///
/// [`HtmlError`], which only a bug could cause.
pub fn html(runs: &[RunResult], made: &Provenance) -> Result<String, HtmlError> {
    let page = Page::new(runs, made).render().map_err(HtmlError)?;
    Ok(page.replace(unprintable, "\u{fffd}"))
}

/// Characters that are no text (the HTML standard has most of them as errors), or that turn the
/// direction of what follows (Unicode Standard Annex #9), so that it reads as what it is not.
pub(crate) fn unprintable(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        _ => c.is_control(),
    }
}

#[cfg(test)]
mod reading;
#[cfg(test)]
mod tests;
