//! Who sent how many IPIs to whom, as a heat map whose cells have their numbers.

use ipirig_verdict::result::{RunResult, Vcpu};

use super::words::grouped;

/// Shades that the style sheet has, without the one for nothing.
const SHADES: u64 = 5;

/// A row a sender, a column a target.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) targets: Vec<Head>,
    pub(super) rows: Vec<Row>,
    /// Of each column, and of all.
    pub(super) totals: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: usize,
    pub(super) role: &'static str,
    pub(super) isolated: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) sender: Head,
    pub(super) cells: Vec<Cell>,
    pub(super) total: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) count: String,
    /// 0 for nothing, up to [`SHADES`].
    pub(super) shade: u64,
    pub(super) isolated: bool,
}

fn head(vcpu: &Vcpu) -> Head {
    Head {
        id: vcpu.id,
        role: vcpu.role,
        isolated: vcpu.role == "isolated",
    }
}

impl Matrix {
    /// `None` if the run has no vCPUs to speak of.
    pub(super) fn new(run: &RunResult) -> Option<Self> {
        if run.vcpus.is_empty() {
            return None;
        }
        let sent = |target: &Vcpu, sender: usize| {
            let count = target.window.by_source.get(&sender);
            count.copied().unwrap_or(0)
        };
        let all = run.vcpus.iter().flat_map(|v| v.window.by_source.values());
        let most = all.copied().max().unwrap_or(0);
        let row = |sender: &Vcpu| {
            let counts = run.vcpus.iter().map(|target| sent(target, sender.id));
            Row {
                sender: head(sender),
                cells: run
                    .vcpus
                    .iter()
                    .map(|target| {
                        let count = sent(target, sender.id);
                        Cell {
                            count: grouped(count),
                            shade: shade(count, most),
                            isolated: target.role == "isolated",
                        }
                    })
                    .collect(),
                total: grouped(counts.sum()),
            }
        };
        let column = |target: &Vcpu| target.window.by_source.values().sum::<u64>();
        let all: u64 = run.vcpus.iter().map(column).sum();
        Some(Self {
            targets: run.vcpus.iter().map(head).collect(),
            rows: run.vcpus.iter().map(row).collect(),
            totals: run
                .vcpus
                .iter()
                .map(column)
                .chain([all])
                .map(grouped)
                .collect(),
        })
    }
}

/// One of [`SHADES`] equal steps up to `most`; whatever is not nothing has the first.
fn shade(count: u64, most: u64) -> u64 {
    if count == 0 || most == 0 {
        return 0;
    }
    let step = u128::from(count) * u128::from(SHADES);
    u64::try_from(step.div_ceil(u128::from(most))).map_or(SHADES, |step| step.min(SHADES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specimen;

    #[test]
    fn rows_send_columns_get_and_sums_agree() {
        let matrix = Matrix::new(&specimen::violated()).unwrap();
        let counts: Vec<Vec<&str>> = matrix
            .rows
            .iter()
            .map(|row| {
                let cells = row.cells.iter().map(|cell| cell.count.as_str());
                cells.chain([row.total.as_str()]).collect()
            })
            .collect();
        assert_eq!(
            counts,
            [
                ["0", "2", "2", "4"],
                ["0", "0", "0", "0"],
                ["0", "0", "0", "0"]
            ]
        );
        assert_eq!(matrix.totals, ["0", "2", "2", "4"]);
        assert!(matrix.targets[2].isolated && !matrix.targets[1].isolated);
    }

    #[test]
    fn shades_are_steps_and_something_never_looks_like_nothing() {
        let shades = [0, 1, 200, 201, 999, 1000].map(|count| shade(count, 1000));
        assert_eq!(shades, [0, 1, 1, 2, 5, 5]);
        assert_eq!(shade(u64::MAX, u64::MAX), SHADES);
    }
}
