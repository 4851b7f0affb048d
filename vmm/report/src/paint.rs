//! Colour, where it helps and is wanted, and nothing else that steers a terminal: what is painted is marked, by a number
//! that no guest and no file knows, and [`shown`] makes colour of the marks and replaces all other control characters.

use std::ffi::OsStr;
use std::fmt::Display;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;

use ipirig_terminal::text;

use ipirig_checks::check::Verdict;

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
            format!("{}{code}m{text}{}0m", *MARK, *MARK)
        } else {
            text.to_string()
        }
    }
}

/// How a mark begins. Another one in each process.
static MARK: LazyLock<String> = LazyLock::new(|| {
    let number = RandomState::new().build_hasher().finish();
    format!("\x1b{number:016x}:")
});

/// What was painted as a terminal may have it: with its colours, and without any control character that was in a
/// text. The ends of lines stay.
#[must_use]
pub fn shown(painted: &str) -> String {
    let mut pieces = painted.split(MARK.as_str());
    let mut out = text::lines(pieces.next().unwrap_or_default()).into_owned();
    for piece in pieces {
        // After each mark is what `wrap` has put there.
        let (code, rest) = piece.split_once('m').unwrap_or(("0", piece));
        out.push_str("\x1b[");
        out.push_str(code);
        out.push('m');
        out.push_str(&text::lines(rest));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_steers_the_terminal_whatever_is_in_it() {
        let guest = "\x1b[1;32mheld\x1b[0m \x1b]0;title\x07\u{9b}2J\r";
        let replaced = "\u{fffd}[1;32mheld\u{fffd}[0m \u{fffd}]0;title\u{fffd}\u{fffd}2J\u{fffd}";
        let on = Paint { on: true };
        assert_eq!(shown(&format!("{guest}\n")), format!("{replaced}\n"));
        assert_eq!(shown(&on.bold(guest)), format!("\x1b[1m{replaced}\x1b[0m"));
        assert_eq!(shown(&Paint::PLAIN.bold(guest)), replaced);
    }

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
        assert_eq!(shown(&Paint { on: true }.bold("x")), "\x1b[1mx\x1b[0m");
        assert_eq!(Paint::PLAIN.verdict(Verdict::Violated, "x"), "x");
    }
}
