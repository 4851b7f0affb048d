//! Colour, where it helps and is wanted.

use std::ffi::OsStr;
use std::fmt::Display;

use ipirig_verdict::check::Verdict;

/// Adds colour or leaves it be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    on: bool,
}

impl Paint {
    /// Never any colour.
    pub const PLAIN: Self = Self { on: false };

    /// Colour on a terminal, unless the environment's `NO_COLOR` is set to anything but the empty
    /// string (<https://no-color.org>).
    #[must_use]
    pub fn choose(terminal: bool, no_color: Option<&OsStr>) -> Self {
        Self {
            on: terminal && no_color.is_none_or(OsStr::is_empty),
        }
    }

    /// Bold.
    pub fn bold(self, text: impl Display) -> String {
        self.wrap("1", text)
    }

    /// Faint.
    pub fn dim(self, text: impl Display) -> String {
        self.wrap("2", text)
    }

    /// The colour of a verdict.
    pub fn verdict(self, verdict: Verdict, text: impl Display) -> String {
        let code = match verdict {
            Verdict::Held => "1;32",
            Verdict::Violated => "1;31",
            Verdict::Error => "1;35",
            Verdict::Skipped => "1;33",
        };
        self.wrap(code, text)
    }

    fn wrap(self, code: &str, text: impl Display) -> String {
        if self.on {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_needs_a_terminal_and_no_objection() {
        let no = Some(OsStr::new("1"));
        let empty = Some(OsStr::new(""));
        let chosen = [(true, None), (true, empty), (true, no), (false, None)]
            .map(|(terminal, no_color)| Paint::choose(terminal, no_color).on);
        assert_eq!(chosen, [true, true, false, false]);
    }

    #[test]
    fn painted_text_is_reset_and_plain_text_is_untouched() {
        assert_eq!(Paint { on: true }.bold("x"), "\x1b[1mx\x1b[0m");
        assert_eq!(Paint::PLAIN.verdict(Verdict::Violated, "x"), "x");
    }
}
