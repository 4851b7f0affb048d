//! Lists of CPUs the way the kernel writes them: `1-3,5`.

use std::fmt;

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
}
