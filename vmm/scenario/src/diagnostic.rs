//! An error in a file, shown where it is: file, line, column, the line itself and a caret.

use std::fmt;
use std::ops::Range;

/// A message that points into a text file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The file, as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The whole line.
    pub text: String,
    /// Characters to underline, at least 1.
    pub width: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Points at `span` (bytes) of `source`. A span outside the text points at its end.
    pub(crate) fn at(
        file: &str,
        source: &str,
        span: Range<usize>,
        message: impl Into<String>,
    ) -> Self {
        let start = floor_char_boundary(source, span.start);
        let end = floor_char_boundary(source, span.end).max(start);
        let before = &source[..start];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let text = source[line_start..].lines().next().unwrap_or_default();
        // A span may run over several lines; the first one is enough to find the place.
        let last = end.min(line_start + text.len()).max(start);
        Self {
            file: file.to_owned(),
            line: before.matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            text: text.to_owned(),
            width: source[start..last].chars().count().max(1),
            message: message.into(),
            help: None,
        }
    }

    /// Adds what would be right.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at)
        .rev()
        .find(|&i| text.is_char_boundary(i))
        .unwrap_or(0)
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len());
        // Tabs are kept, so that the caret stands under its character at any tab width.
        let indent: String = self
            .text
            .chars()
            .take(self.column - 1)
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        writeln!(
            f,
            "{}:{}:{}: {}",
            self.file, self.line, self.column, self.message
        )?;
        writeln!(f, "{gutter} |")?;
        writeln!(f, "{number} | {}", self.text)?;
        write!(f, "{gutter} | {indent}{}", "^".repeat(self.width))?;
        if let Some(help) = &self.help {
            write!(f, "\n{gutter} = {help}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_span() {
        let source = "a = 1\n\tkey = \"ü\" # x\n";
        let start = source.find("\"ü").unwrap();
        let diagnostic = Diagnostic::at("f.toml", source, start..start + 4, "bad").help("use 1");
        assert_eq!(
            diagnostic.to_string(),
            "f.toml:2:8: bad\n  |\n2 | \tkey = \"ü\" # x\n  | \t      ^^^\n  = use 1"
        );
    }

    #[test]
    fn a_span_over_lines_or_past_the_end_stays_on_one_line() {
        let long = Diagnostic::at("f", "ab\ncd\n", 1..5, "m");
        assert_eq!(
            (long.line, long.column, long.width, long.text.as_str()),
            (1, 2, 1, "ab")
        );
        let past = Diagnostic::at("f", "ab\n", 90..99, "m");
        assert_eq!(
            (past.line, past.column, past.width, past.text.as_str()),
            (2, 1, 1, "")
        );
    }

    #[test]
    fn a_span_inside_a_character_is_moved_to_its_start() {
        let inside = Diagnostic::at("f", "ü", 1..2, "m");
        assert_eq!((inside.column, inside.width), (1, 1));
    }
}
