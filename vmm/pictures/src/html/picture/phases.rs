//! The whole run as one bar: how long each phase took.

use ipirig_evidence::Phase;
use ipirig_verdict::result::RunResult;

use super::{CHAR, Rect, Text, WIDTH, rect, text};
use crate::html::words::{counted, duration};

/// Height of the bar.
const HEIGHT: f64 = 30.0;

/// The bar, and the same in words.
#[derive(Debug, PartialEq)]
pub(in crate::html) struct Phases {
    pub(in crate::html) width: f64,
    pub(in crate::html) height: f64,
    pub(in crate::html) rects: Vec<Rect>,
    pub(in crate::html) texts: Vec<Text>,
    /// Each kind of phase with its time, in the order in which they came first.
    pub(in crate::html) list: Vec<String>,
}

impl Phases {
    /// `None` if the run never began.
    pub(in crate::html) fn new(run: &RunResult) -> Option<Self> {
        let (from, to) = run.timeline.extent()?;
        let scale = WIDTH / (to - from).max(1) as f64;
        let mut phases = Self {
            width: WIDTH,
            height: HEIGHT,
            rects: Vec::new(),
            texts: Vec::new(),
            list: Vec::new(),
        };
        let mut sums: Vec<(Phase, u64, u64)> = Vec::new();
        for phase in &run.timeline.phases {
            let length = phase.to_ns - phase.from_ns;
            match sums.iter_mut().find(|(seen, ..)| *seen == phase.what) {
                Some((_, times, sum)) => {
                    *times += 1;
                    *sum += length;
                }
                None => sums.push((phase.what, 1, length)),
            }
            let name = phase.what.to_string();
            let x = (phase.from_ns - from) as f64 * scale;
            let width = length as f64 * scale;
            let class = if phase.what == Phase::Storm {
                "storm"
            } else {
                "phase"
            };
            // The border between two is a gap.
            let mut bar = rect(class, x, 0.0, (width - 1.0).max(0.5), HEIGHT);
            bar.title = format!("{name}, {}", duration(length));
            phases.rects.push(bar);
            if name.chars().count() as f64 * CHAR + 12.0 <= width {
                let class = if phase.what == Phase::Storm {
                    "on-storm"
                } else {
                    "small"
                };
                phases.texts.push(text(class, x + 8.0, 19.0, name));
            }
        }
        phases.list = sums
            .into_iter()
            .map(|(phase, times, sum)| match times {
                1 => format!("{phase} {}", duration(sum)),
                _ => {
                    let times = counted(times, "time", "times");
                    format!("{phase} {} ({times})", duration(sum))
                }
            })
            .collect();
        Some(phases)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specimen;

    #[test]
    fn phases_fill_the_bar_and_are_summed_by_kind() {
        let mut run = specimen::violated();
        run.timeline
            .phases
            .push(specimen::span(12_000_000, 13_000_000, Phase::Storm));
        let phases = Phases::new(&run).unwrap();
        assert_eq!(
            phases.list,
            [
                "boot 3.00 ms",
                "storm 6.00 ms (2 times)",
                "first entry 3.00 ms"
            ]
        );
        let last = phases.rects.last().unwrap();
        assert!((last.x.0 + last.width.0 - (WIDTH - 1.0)).abs() < 1e-9);
        assert_eq!(last.title, "storm, 1.00 ms");
        run.timeline.phases.clear();
        assert_eq!(Phases::new(&run), None);
    }
}
