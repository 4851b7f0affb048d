//! The windows of a run as a picture: a lane for each vCPU, time to the right. Events are counted in
//! bins, so that a storm of a hundred thousand IPIs is no larger than one of a hundred.

mod bins;
mod phases;

use std::fmt;

use ipirig_evidence::ledger::changes::Sighted;
use ipirig_scenario::EntryKind;
use ipirig_verdict::result::RunResult;

use super::words::{counted, duration, grouped};
use bins::{Bins, Lane};
pub(super) use phases::Phases;

/// Units of the picture's width; the style sheet says how large one is.
const WIDTH: f64 = 960.0;
/// Where the lanes begin: to the left are their names.
const LEFT: f64 = 150.0;
/// Where the lanes end: to the right are their sums.
const RIGHT: f64 = WIDTH - 118.0;
/// Height of the row with the windows' names.
const HEAD: f64 = 26.0;
/// Height of a lane that shows what was done.
const LOW: f64 = 28.0;
/// Height of a vCPU's lane.
const HIGH: f64 = 54.0;
/// Height of the row with times.
const FOOT: f64 = 24.0;
/// Height of the highest bar above a vCPU's line, and of the lowest below.
const UP: f64 = 30.0;
const DOWN: f64 = 10.0;
/// Width of a character of the small text, at most.
const CHAR: f64 = 6.4;

/// A picture: shapes in the order in which they are drawn.
#[derive(Debug, PartialEq)]
pub(super) struct Picture {
    pub(super) width: f64,
    pub(super) height: f64,
    pub(super) rects: Vec<Rect>,
    pub(super) texts: Vec<Text>,
    /// What it shows, for who cannot see it.
    pub(super) label: String,
    /// How to read it.
    pub(super) scale: String,
}

#[derive(Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) class: &'static str,
    pub(super) x: Unit,
    pub(super) y: Unit,
    pub(super) width: Unit,
    pub(super) height: Unit,
    /// What a pointer that rests there is told; empty for nothing.
    pub(super) title: String,
}

#[derive(Debug, PartialEq)]
pub(super) struct Text {
    pub(super) class: &'static str,
    pub(super) x: Unit,
    pub(super) y: Unit,
    pub(super) text: String,
}

/// A length, written with one digit after the point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Unit(pub(super) f64);

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounded = (self.0 * 10.0).round() / 10.0;
        write!(f, "{rounded}")
    }
}

fn rect(class: &'static str, x: f64, y: f64, width: f64, height: f64) -> Rect {
    Rect {
        class,
        x: Unit(x),
        y: Unit(y),
        width: Unit(width),
        height: Unit(height),
        title: String::new(),
    }
}

fn text(class: &'static str, x: f64, y: f64, text: impl Into<String>) -> Text {
    Text {
        class,
        x: Unit(x),
        y: Unit(y),
        text: text.into(),
    }
}

impl Picture {
    /// `None` if no window opened.
    pub(super) fn new(run: &RunResult) -> Option<Self> {
        if run.timeline.windows.is_empty() || run.vcpus.is_empty() {
            return None;
        }
        let lanes = run.vcpus.len() + 2;
        let bins = Bins::new(&run.timeline.windows, lanes, LEFT, RIGHT);
        let mut drawing = Drawing {
            bins: &bins,
            y: HEAD,
            rects: Vec::new(),
            texts: Vec::new(),
        };
        drawing.storm(run);
        drawing.changes(run, Sighted::Poke, "text patched");
        drawing.changes(run, Sighted::Flush, "mappings flushed");
        let most = drawing.vcpus(run);
        let height = drawing.y + FOOT;
        drawing.windows(run);
        let ipis: u64 = run.vcpus.iter().map(|v| v.window.ipis_targeted).sum();
        let isolated = super::words::isolated_ipis(run);
        Some(Self {
            width: WIDTH,
            height,
            label: format!(
                "{} over time, {} of them to isolated vCPUs",
                counted(ipis, "IPI", "IPIs"),
                grouped(isolated)
            ),
            scale: match most {
                0 => String::new(),
                _ => format!(
                    "The highest bar stands for {} in {}.",
                    counted(most, "IPI", "IPIs"),
                    duration(bins.longest_ns())
                ),
            },
            rects: drawing.rects,
            texts: drawing.texts,
        })
    }
}

/// A picture being drawn, from the top.
struct Drawing<'a> {
    bins: &'a Bins,
    /// Where the next lane begins.
    y: f64,
    rects: Vec<Rect>,
    texts: Vec<Text>,
}

impl Drawing<'_> {
    /// When the storm ran.
    fn storm(&mut self, run: &RunResult) {
        let storms = &run.timeline.storms;
        if storms.is_empty() {
            return;
        }
        for storm in storms {
            let (from, to) = (self.bins.x(storm.from_ns), self.bins.x(storm.to_ns));
            let mut bar = rect(
                "doing",
                from,
                self.y + LOW - 14.0,
                (to - from).max(1.0),
                8.0,
            );
            bar.title = format!("storm, {}", duration(storm.to_ns - storm.from_ns));
            self.rects.push(bar);
        }
        let operations = run.scenario.operations;
        let sum = counted(operations, "operation", "operations");
        self.words(LOW - 6.0, ["storm", ""], [&sum, ""]);
        self.y += LOW;
    }

    /// When the kernel changed what other CPUs may have cached.
    fn changes(&mut self, run: &RunResult, what: Sighted, name: &str) {
        let alike = run.timeline.changes.iter().filter(|c| c.what == what);
        let lane = Lane::new(self.bins, alike.map(|change| change.time_ns));
        if lane.total == 0 {
            return;
        }
        let base = self.y + LOW - 4.0;
        self.bars(&lane, "change", base, -(LOW - 10.0), lane.most, &|count| {
            format!("{name}: {}", counted(count, "time", "times"))
        });
        let sum = counted(lane.total, "time", "times");
        self.words(LOW - 8.0, [name, ""], [&sum, ""]);
        self.y += LOW;
    }

    /// What each vCPU was sent, and what else came; gives the largest number of IPIs in a bin.
    fn vcpus(&mut self, run: &RunResult) -> u64 {
        let timeline = &run.timeline;
        let lanes: Vec<(Lane, Lane)> = run
            .vcpus
            .iter()
            .map(|vcpu| {
                let sent = timeline.writes.iter();
                let sent = sent.filter(|w| w.targets.contains(vcpu.id));
                let other = timeline.deliveries.iter();
                let other = other.filter(|d| !d.ipi && d.cpu == vcpu.id);
                (
                    Lane::new(self.bins, sent.map(|write| write.time_ns)),
                    Lane::new(self.bins, other.map(|delivery| delivery.time_ns)),
                )
            })
            .collect();
        let most = lanes.iter().map(|(ipis, _)| ipis.most).max().unwrap_or(0);
        let most_other = lanes.iter().map(|(_, other)| other.most).max().unwrap_or(0);
        for (vcpu, (ipis, other)) in run.vcpus.iter().zip(&lanes) {
            let id = vcpu.id;
            let base = self.y + UP + 8.0;
            if vcpu.role == "isolated" {
                let (from, to) = (LEFT, RIGHT);
                let band = rect("isolated", from, self.y, to - from, HIGH);
                self.rects.push(band);
            }
            let line = rect("line", LEFT, base, RIGHT - LEFT, 1.0);
            self.rects.push(line);
            self.bars(ipis, "ipi", base, -UP, most, &|count| {
                format!("vCPU {id}: {}", counted(count, "IPI", "IPIs"))
            });
            self.bars(other, "other", base + 2.0, DOWN, most_other, &|count| {
                let many = counted(count, "other interrupt", "other interrupts");
                format!("vCPU {id}: {many}")
            });
            let others = match other.total {
                0 => String::new(),
                total => format!("{} other", grouped(total)),
            };
            let (name, sum) = (format!("vCPU {id}"), counted(ipis.total, "IPI", "IPIs"));
            self.words(28.0, [&name, vcpu.role], [&sum, &others]);
            self.y += HIGH;
        }
        most
    }

    /// Bars from `base`, up if `reach` is negative.
    fn bars(
        &mut self,
        lane: &Lane,
        class: &'static str,
        base: f64,
        reach: f64,
        most: u64,
        title: &dyn Fn(u64) -> String,
    ) {
        for (bin, &count) in self.bins.iter().zip(&lane.counts) {
            if count == 0 {
                continue;
            }
            // What is there is seen.
            let height = (reach.abs() * count as f64 / most.max(1) as f64).max(2.0);
            let top = if reach < 0.0 { base - height } else { base };
            // A gap between bars, where there is room for one.
            let gap = if bin.width > 3.0 { 0.8 } else { 0.0 };
            let mut bar = rect(class, bin.x, top, (bin.width - gap).max(0.6), height);
            bar.title = format!("{}, {}", title(count), bin.when());
            self.rects.push(bar);
        }
    }

    /// The name of a lane to its left, its sum to its right; and in small letters what is below each.
    fn words(&mut self, middle: f64, name: [&str; 2], sum: [&str; 2]) {
        let (left, right, middle) = (LEFT - 10.0, RIGHT + 10.0, self.y + middle);
        for (class, x, y, words) in [
            ("name", left, middle, name[0]),
            ("small end", left, middle + 15.0, name[1]),
            ("sum", right, middle, sum[0]),
            ("small", right, middle + 15.0, sum[1]),
        ] {
            if !words.is_empty() {
                self.texts.push(text(class, x, y, words));
            }
        }
    }

    /// The windows behind the lanes, their names above and their times below.
    fn windows(&mut self, run: &RunResult) {
        let windows = &run.timeline.windows;
        let mut behind = Vec::new();
        for (number, window) in (1..).zip(windows) {
            let (from, to) = (self.bins.x(window.from_ns), self.bins.x(window.to_ns));
            let length = duration(window.to_ns - window.from_ns);
            let mut back = rect("window", from, HEAD, to - from, self.y - HEAD);
            let middle = f64::midpoint(from, to);
            let name = match EntryKind::find(window.what) {
                // An observation's.
                None => {
                    back.title = format!("observed, {length}");
                    back.title.clone()
                }
                Some(kind) => {
                    back.title = format!("window {number}, {length}, ended by {kind}");
                    if windows.len() == 1 {
                        format!("window, {length}, ended by {kind}")
                    } else {
                        kind.to_string()
                    }
                }
            };
            behind.push(back);
            let name = if name.chars().count() as f64 * CHAR <= to - from {
                name
            } else {
                number.to_string()
            };
            self.texts.push(text("small mid", middle, HEAD - 9.0, name));
            if windows.len() == 1 {
                self.ticks(window.to_ns - window.from_ns, from, to);
            } else if length.chars().count() as f64 * CHAR <= to - from {
                let below = text("small mid", middle, self.y + 16.0, length);
                self.texts.push(below);
            }
        }
        behind.append(&mut self.rects);
        self.rects = behind;
    }

    /// Round times below a window.
    fn ticks(&mut self, length_ns: u64, from: f64, to: f64) {
        let step = round_step(length_ns / 6);
        let mut at = 0;
        while at <= length_ns {
            let x = from + (to - from) * at as f64 / length_ns.max(1) as f64;
            self.rects.push(rect("tick", x, self.y, 1.0, 4.0));
            let words = if at == 0 { "0".to_owned() } else { round(at) };
            self.texts.push(text("small mid", x, self.y + 18.0, words));
            at += step;
        }
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is not below `ns`.
fn round_step(ns: u64) -> u64 {
    let mut power = 1;
    loop {
        for step in [power, 2 * power, 5 * power] {
            if step >= ns {
                return step;
            }
        }
        power *= 10;
    }
}

/// A round time, without digits that say nothing.
fn round(ns: u64) -> String {
    let (unit, name) = match ns {
        0..1_000 => (1.0, "ns"),
        1_000..1_000_000 => (1e3, "µs"),
        1_000_000..1_000_000_000 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    format!("{} {name}", ns as f64 / unit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::specimen;

    #[test]
    fn the_picture_has_a_bar_where_something_came_and_says_what() {
        let picture = Picture::new(&specimen::violated()).unwrap();
        let titles = |class| -> Vec<&str> {
            let rects = picture.rects.iter().filter(|rect| rect.class == class);
            rects.map(|rect| rect.title.as_str()).collect()
        };
        assert_eq!(titles("window"), ["window 1, 4.00 ms, ended by SYSCALL"]);
        let named = |name| picture.texts.iter().any(|text| text.text == name);
        assert!(named("window, 4.00 ms, ended by SYSCALL"));
        assert_eq!(titles("doing"), ["storm, 2.00 ms"]);
        let ipis = titles("ipi");
        assert_eq!(ipis.len(), 4, "{ipis:?}");
        assert_eq!(ipis[0], "vCPU 1: 1 IPI, 1.50 ms to 1.52 ms");
        assert_eq!(titles("other").len(), 1);
        assert_eq!(titles("change").len(), 1);
        assert_eq!(
            picture.label,
            "4 IPIs over time, 2 of them to isolated vCPUs"
        );
        let sums: Vec<&str> = picture
            .texts
            .iter()
            .filter(|text| text.class == "sum")
            .map(|text| text.text.as_str())
            .collect();
        assert_eq!(
            sums,
            ["101 operations", "1 time", "0 IPIs", "2 IPIs", "2 IPIs"]
        );
    }

    #[test]
    fn a_storm_of_a_hundred_thousand_is_drawn_with_as_few_bars() {
        let mut run = specimen::violated();
        let write = run.timeline.writes[0];
        run.timeline.writes = (0..100_000)
            .map(|n| ipirig_evidence::ledger::Write {
                time_ns: 5_000_000 + n * 40,
                ..write
            })
            .collect();
        let picture = Picture::new(&run).unwrap();
        assert!(picture.rects.len() < 1000, "{}", picture.rects.len());
        let total: u64 = picture
            .texts
            .iter()
            .filter(|text| text.text == "100\u{202f}000 IPIs")
            .count() as u64;
        assert_eq!(total, 2);
    }

    #[test]
    fn without_a_window_there_is_nothing_to_draw() {
        let mut run = specimen::violated();
        run.timeline.windows.clear();
        assert_eq!(Picture::new(&run), None);
    }

    #[test]
    fn ticks_are_at_round_times() {
        assert_eq!(
            [0, 1, 3, 6, 1_100, 166_666].map(round_step),
            [1, 1, 5, 10, 2_000, 200_000]
        );
        assert_eq!([500_000, 2_000_000_000].map(round), ["500 µs", "2 s"]);
    }
}
