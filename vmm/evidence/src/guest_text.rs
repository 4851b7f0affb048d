//! What the guest's kernel says about itself, read from its own text files. Hostile input: nothing
//! here trusts a number to be in range or a line to be whole.

use std::collections::BTreeMap;

/// One CPU's line of the reference series' counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuCounters {
    /// Text-patching syncs not sent.
    pub deferred_text: u64,
    /// Kernel TLB flushes not sent.
    pub deferred_tlb: u64,
    /// How much of both was caught up with, summed over all kernel entries.
    pub caught_up: u64,
    /// How much waits for the next entry; not every kernel says. A sender that is slow to count
    /// can make it negative for a moment.
    pub pending: Option<i64>,
}

/// The counters of all CPUs, by number.
pub type Counters = BTreeMap<usize, CpuCounters>;

/// Why the counters mean nothing to us.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CountersError {
    /// A column that the rig needs is not in the header.
    #[error("the counters have no column `{0}`")]
    NoColumn(&'static str),
    /// A line is not as long as the header, or a cell is no number.
    #[error("line {line} of the counters is not as its header says: {text:?}")]
    BadLine {
        /// The line, from 1.
        line: usize,
        /// The line itself, cut.
        text: String,
    },
}

/// Parses the series' counters: a header line that begins with `cpu`, then a line a CPU. Columns
/// are found by name, so that a kernel may have more of them. `None`: an empty text, which is how
/// a kernel without the series answers.
///
/// # Errors
///
/// See [`CountersError`].
pub fn parse_counters(text: &str) -> Result<Option<Counters>, CountersError> {
    let mut lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    let Some((_, header)) = lines.next() else {
        return Ok(None);
    };
    let names: Vec<&str> = header.split_whitespace().collect();
    let column = |name: &'static str| {
        names
            .iter()
            .position(|n| *n == name)
            .ok_or(CountersError::NoColumn(name))
    };
    let cpu = column("cpu")?;
    let (text_column, tlb_column) = (column("deferred_text")?, column("deferred_tlb")?);
    let caught_up = column("caught_up")?;
    let pending = column("pending").ok();
    let mut counters = Counters::new();
    for (i, line) in lines {
        let bad = || CountersError::BadLine {
            line: i + 1,
            text: line.chars().take(80).collect(),
        };
        let cells: Vec<&str> = line.split_whitespace().collect();
        let cell = |column: usize| -> Result<u64, CountersError> {
            cells
                .get(column)
                .and_then(|cell| cell.parse().ok())
                .ok_or_else(bad)
        };
        let pending = match pending.map(|column| cells.get(column)) {
            None => None,
            Some(cell) => Some(cell.and_then(|cell| cell.parse().ok()).ok_or_else(bad)?),
        };
        let one = CpuCounters {
            deferred_text: cell(text_column)?,
            deferred_tlb: cell(tlb_column)?,
            caught_up: cell(caught_up)?,
            pending,
        };
        let number = usize::try_from(cell(cpu)?).map_err(|_| bad())?;
        counters.insert(number, one);
    }
    Ok(Some(counters))
}

/// Rows of /proc/interrupts that count what an IPI brings: label and counts by CPU. The kernel
/// counts in 32 bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interrupts {
    /// Counts by row label (`CAL`, `RES`, ...), then by CPU.
    pub rows: BTreeMap<String, BTreeMap<usize, u32>>,
}

/// Parses /proc/interrupts. Rows that do not look like counts are left out; a text with no header
/// gives no rows.
#[must_use]
pub fn parse_interrupts(text: &str) -> Interrupts {
    let mut lines = text.lines();
    let cpus: Option<Vec<usize>> = lines.next().and_then(|header| {
        header
            .split_whitespace()
            .map(|name| name.strip_prefix("CPU")?.parse().ok())
            .collect()
    });
    let mut interrupts = Interrupts::default();
    let Some(cpus) = cpus else { return interrupts };
    for line in lines {
        let Some((label, cells)) = line.split_once(':') else {
            continue;
        };
        let counts: Vec<u32> = cells
            .split_whitespace()
            .map_while(|cell| cell.parse().ok())
            .collect();
        // Fewer: a row such as ERR, which has one count for all CPUs.
        if counts.len() >= cpus.len() {
            let row = cpus.iter().copied().zip(counts).collect();
            interrupts.rows.insert(label.trim().to_owned(), row);
        }
    }
    interrupts
}

/// The release in `uname -srvm`: its second word.
#[must_use]
pub fn release(version: &str) -> Option<&str> {
    version.split_whitespace().nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_column_name() {
        let text = "cpu deferred_tlb news deferred_text caught_up pending\n\
                    0   0            7    0             0         0\n\
                    2   5            7    303           12        1\n";
        let two = CpuCounters {
            deferred_text: 303,
            deferred_tlb: 5,
            caught_up: 12,
            pending: Some(1),
        };
        let zero = CpuCounters {
            pending: Some(0),
            ..CpuCounters::default()
        };
        assert_eq!(
            parse_counters(text),
            Ok(Some(Counters::from([(0, zero), (2, two)])))
        );
    }

    #[test]
    fn pending_may_be_negative_and_counts_may_not() {
        let header = "cpu deferred_text deferred_tlb caught_up pending\n";
        let counters = parse_counters(&format!("{header}1 2 3 4 -1\n"))
            .unwrap()
            .unwrap();
        assert_eq!(counters[&1].pending, Some(-1));
        assert!(parse_counters(&format!("{header}1 2 -3 4 0\n")).is_err());
        assert!(parse_counters(&format!("{header}1 2 3 4\n")).is_err());
    }

    #[test]
    fn an_older_kernel_may_not_say_what_is_pending() {
        let text = "cpu deferred_text deferred_tlb caught_up\n1 1 2 3\n";
        let one = CpuCounters {
            deferred_text: 1,
            deferred_tlb: 2,
            caught_up: 3,
            pending: None,
        };
        assert_eq!(parse_counters(text), Ok(Some(Counters::from([(1, one)]))));
    }

    #[test]
    fn no_text_means_no_series() {
        assert_eq!(parse_counters(""), Ok(None));
        assert_eq!(parse_counters("\n  \n"), Ok(None));
    }

    #[test]
    fn nonsense_is_an_error_with_its_line() {
        assert_eq!(
            parse_counters("cpu deferred_text deferred_tlb\n0 0 0\n"),
            Err(CountersError::NoColumn("caught_up"))
        );
        let header = "cpu deferred_text deferred_tlb caught_up\n";
        for line in ["0 0 0", "0 0 0 x", "0 0 0 -1", "99999999999999999999 0 0 0"] {
            assert_eq!(
                parse_counters(&format!("{header}{line}\n")),
                Err(CountersError::BadLine {
                    line: 2,
                    text: line.to_owned()
                })
            );
        }
    }

    #[test]
    fn interrupts_are_read_by_row_and_cpu() {
        let text = "            CPU0       CPU2       \n\
                    \x20 4:         12          0   ttyS0\n\
                    LOC:        900         11   Local timer interrupts\n\
                    CAL:       4294967295        303   Function call interrupts\n\
                    ERR:          0\n\
                    MIS:          0\n";
        let row = |zero, two| BTreeMap::from([(0, zero), (2, two)]);
        assert_eq!(
            parse_interrupts(text),
            Interrupts {
                rows: BTreeMap::from([
                    ("4".to_owned(), row(12, 0)),
                    ("LOC".to_owned(), row(900, 11)),
                    ("CAL".to_owned(), row(u32::MAX, 303)),
                ])
            }
        );
    }

    #[test]
    fn what_is_no_interrupt_table_has_no_rows() {
        for text in ["", "hello\nCAL: 1 2\n", "CPUx\nCAL: 1\n"] {
            assert_eq!(parse_interrupts(text), Interrupts::default(), "{text}");
        }
    }

    #[test]
    fn the_release_is_the_second_word() {
        assert_eq!(release("Linux 6.12.117 #1 SMP x86_64"), Some("6.12.117"));
        assert_eq!(release("Linux"), None);
    }
}
