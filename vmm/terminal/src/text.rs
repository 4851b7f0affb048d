//! Text of guests and files as a terminal may have it: no character of it moves the cursor, changes a colour, sets a
//! title, asks the terminal to answer, or has text be read in another order than it is written.

use std::borrow::Cow;

/// What stands for a character that is not shown.
pub const REPLACEMENT: char = '\u{fffd}';

/// Whether a character may be shown: no control character of C0 or C1 but the tabulator, and none of those by which
/// Unicode changes the direction of text (UAX #9) or begins another line.
#[must_use]
pub fn is_shown(c: char) -> bool {
    match c {
        '\t' => true,
        '\u{61c}'
        | '\u{200e}'
        | '\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{2028}'
        | '\u{2029}' => false,
        _ => !c.is_control(),
    }
}

/// One line: what is not shown is replaced, the ends of lines as well.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    filtered(text, is_shown)
}

/// Lines: what is not shown is replaced, but for the ends of lines.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    filtered(text, |c| c == '\n' || is_shown(c))
}

fn filtered(text: &str, shown: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(&shown) {
        return Cow::Borrowed(text);
    }
    let one = |c| if shown(c) { c } else { REPLACEMENT };
    Cow::Owned(text.chars().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_replaced_and_all_else_is_as_it_was() {
        let steering = "\x1b[2J\x1b]0;title\x07\u{9b}31m\rX\x08\x7f\u{202e}z\u{2028}";
        assert_eq!(
            line(steering),
            "\u{fffd}[2J\u{fffd}]0;title\u{fffd}\u{fffd}31m\u{fffd}X\u{fffd}\u{fffd}\u{fffd}z\u{fffd}"
        );
        let plain = "µs\tüblich → ✓ 日本";
        assert!(matches!(line(plain), Cow::Borrowed(same) if same == plain));
    }

    #[test]
    fn lines_end_only_where_lines_may() {
        assert_eq!(line("a\nb"), "a\u{fffd}b");
        assert_eq!(lines("a\nb\r\n"), "a\nb\u{fffd}\n");
    }

    #[test]
    fn no_character_at_all_gets_through_that_is_a_control() {
        let all: String = ('\0'..=char::MAX).collect();
        assert!(lines(&all).chars().all(|c| c == '\n' || is_shown(c)));
        assert!(line(&all).chars().all(|c| c == '\t' || !c.is_control()));
    }
}
