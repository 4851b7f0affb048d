//! Lists of CPUs the way the kernel writes them: `1-3,5`.

use std::collections::BTreeSet;
use std::fmt;

use ipirig_abi::MAX_CPUS;

/// Why a text is no list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no list of CPUs: {reason}; one is written as the kernel does, `1-3,5`")]
pub struct CpuListError {
    text: String,
    reason: String,
}

/// The CPUs of a list: numbers, and ranges of them, with commas between.
///
/// # Errors
///
/// [`CpuListError`], also where a number is too large for a guest.
pub fn parse(text: &str) -> Result<BTreeSet<usize>, CpuListError> {
    let wrong = |reason: String| CpuListError {
        text: text.to_owned(),
        reason,
    };
    let number = |word: &str| {
        // As the kernel: no sign, no space.
        let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
        match word.parse::<usize>() {
            Ok(cpu) if digits && cpu < MAX_CPUS => Ok(cpu),
            Ok(_) if digits => Err(wrong(format!("a guest has CPUs 0 to {}", MAX_CPUS - 1))),
            _ => Err(wrong(format!("`{word}` is no number"))),
        }
    };
    let mut cpus = BTreeSet::new();
    for part in text.split(',') {
        let (first, last) = match part.split_once('-') {
            Some((first, last)) => (number(first)?, number(last)?),
            None => (number(part)?, number(part)?),
        };
        if first > last {
            return Err(wrong(format!("{part} goes down")));
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

/// Displays CPU numbers as ranges. The numbers must ascend.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuList<'a>(pub(crate) &'a [usize]);

impl fmt::Display for CpuList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|a, b| a + 1 == *b);
        for (i, run) in runs.enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match run {
                [only] => write!(f, "{only}")?,
                [first, .., last] => write!(f, "{first}-{last}")?,
                [] => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_gaps_are_kept() {
        for (cpus, text) in [
            (&[][..], ""),
            (&[2][..], "2"),
            (&[1, 2][..], "1-2"),
            (&[1, 2, 3, 5, 63][..], "1-3,5,63"),
        ] {
            assert_eq!(CpuList(cpus).to_string(), text);
        }
    }

    #[test]
    fn a_list_is_read_as_it_is_written() {
        for text in ["0", "2", "1-2", "1-3,5,63"] {
            let cpus: Vec<usize> = parse(text).expect("a list").into_iter().collect();
            assert_eq!(CpuList(&cpus).to_string(), text);
        }
        let cpus = parse("5,1-3,2").expect("a list");
        assert_eq!(cpus, [1, 2, 3, 5].into());
    }

    #[test]
    fn what_is_no_list_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "`` is no number"),
            ("1,", "`` is no number"),
            ("1-", "`` is no number"),
            ("+1", "`+1` is no number"),
            ("1 ,2", "`1 ` is no number"),
            ("a", "`a` is no number"),
            ("3-1", "3-1 goes down"),
            ("1-64", "a guest has CPUs 0 to 63"),
            (
                "99999999999999999999",
                "`99999999999999999999` is no number",
            ),
        ] {
            let error = parse(text).expect_err("refused");
            assert_eq!(
                error.to_string(),
                format!(
                    "`{text}` is no list of CPUs: {reason}; one is written as the kernel does, `1-3,5`"
                )
            );
        }
    }
}
