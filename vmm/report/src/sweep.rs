//! A sweep on the terminal: a strip for each path and event, a cell an instruction.

mod formats;

use std::fmt::Write as _;

use ipirig_checks::check::Verdict;
use ipirig_sweep::{PathResult, PointResult, Status, SweepResult};

use crate::paint::Paint;

pub use formats::{junit, ktap};

/// Cells in a row.
const WIDTH: usize = 100;
/// Instructions shown before and after one.
const AROUND: usize = 2;
/// Most points that are explained one by one.
const EXPLAINED: usize = 12;

/// A strip for each path and event, what is wrong, and the verdict.
#[must_use]
pub fn view(result: &SweepResult, paint: Paint) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write(&mut text, result, paint);
    text
}

fn write(text: &mut String, result: &SweepResult, paint: Paint) -> std::fmt::Result {
    if let Some(kernel) = &result.kernel {
        writeln!(text, "{}", paint.dim(kernel.trim()))?;
    }
    for path in result.paths.iter().filter(|path| path.why.is_some()) {
        let why = path.why.as_deref().unwrap_or_default();
        writeln!(text, "{}: not traced: {why}", path.path)?;
    }
    for ((path, event), points) in result.strips() {
        let tally = SweepResult::tally(&points);
        writeln!(
            text,
            "\n{}  {} hit, {} missed, {} violated, {} errors",
            paint.bold(format!("{event}@{path}")),
            tally.hit,
            tally.missed,
            tally.violated,
            tally.errors
        )?;
        for (row, cells) in points.chunks(WIDTH).enumerate() {
            write!(text, "{:>5}  ", row * WIDTH)?;
            for point in cells {
                text.push_str(&cell(point.status, paint));
            }
            text.push('\n');
        }
        rules(text, &points)?;
    }
    explain(text, result, paint)?;
    let verdict = Verdict::of(result);
    writeln!(
        text,
        "\n{}  {} points in {:.1} s, {:.1} a second{}",
        paint.verdict(verdict, &result.verdict),
        result.points.len(),
        result.timing.sweep_s,
        result.timing.points_per_s,
        if result.complete {
            ""
        } else {
            ", not complete"
        }
    )?;
    if let Some(why) = &result.why {
        writeln!(text, "{why}")?;
    }
    Ok(())
}

fn cell(status: Status, paint: Paint) -> String {
    match status {
        Status::Held => ".".to_owned(),
        Status::Violated => paint.verdict(Verdict::Violated, "X"),
        Status::Missed => paint.dim("-"),
        Status::Error => paint.verdict(Verdict::Error, "?"),
    }
}

fn rules(text: &mut String, points: &[&PointResult]) -> std::fmt::Result {
    let mut rules: Vec<&str> = points.iter().filter_map(|point| point.rule).collect();
    rules.sort_unstable();
    let mut named = rules.clone();
    named.dedup();
    for rule in named {
        let count = rules.iter().filter(|other| **other == rule).count();
        writeln!(text, "       {count} missed: {rule}")?;
    }
    Ok(())
}

fn explain(text: &mut String, result: &SweepResult, paint: Paint) -> std::fmt::Result {
    let wrong = |point: &&PointResult| matches!(point.status, Status::Violated | Status::Error);
    let all: Vec<&PointResult> = result.points.iter().filter(wrong).collect();
    for point in all.iter().take(EXPLAINED) {
        text.push('\n');
        explain_point(text, result, point, paint)?;
    }
    if all.len() > EXPLAINED {
        writeln!(text, "\n{} more are in --json", all.len() - EXPLAINED)?;
    }
    Ok(())
}

/// What is wrong at a point, with the instructions around it.
#[must_use]
pub fn explained(result: &SweepResult, point: &PointResult) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = explain_point(&mut text, result, point, Paint::PLAIN);
    text
}

fn explain_point(
    text: &mut String,
    result: &SweepResult,
    point: &PointResult,
    paint: Paint,
) -> std::fmt::Result {
    writeln!(text, "{}", paint.bold(point.point.to_string()))?;
    let name = point.point.path.to_string();
    if let Some(path) = result.paths.iter().find(|path| path.path == name) {
        around(text, path, point.point.number)?;
    }
    for violation in &point.violations {
        writeln!(
            text,
            "  invariant {}: {} {}",
            violation.invariant.number(),
            violation.at,
            violation.words
        )?;
    }
    if let Some(why) = &point.why {
        writeln!(text, "  error: {why}")?;
    }
    writeln!(text, "  again: ipirig sweep --point {}", point.point)?;
    Ok(())
}

fn around(text: &mut String, path: &PathResult, number: usize) -> std::fmt::Result {
    let first = number.saturating_sub(AROUND);
    let shown = path.instructions.iter().enumerate().skip(first);
    for (index, instruction) in shown.take(number - first + AROUND + 1) {
        let mark = if index == number { ">" } else { " " };
        writeln!(
            text,
            "  {mark} {index:>4}  {:<44} {}",
            instruction.address, instruction.text
        )?;
    }
    Ok(())
}
