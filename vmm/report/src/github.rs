//! What GitHub shows of a workflow: annotations, which are lines of output that its runner reads, and
//! the summary, which is Markdown.

use std::fmt::Write as _;

use ipirig_checks::check::{Check, Verdict};
use ipirig_verdict::result::RunResult;

/// Most characters of evidence in an annotation or in a cell: whoever wants the whole has the
/// output beside it.
const MOST: usize = 2000;

/// One annotation a check that is not as it should be, each a line. `file` names the file that a
/// scenario came from, relative to the repository, where it is there.
#[must_use]
pub fn annotations(runs: &[RunResult], file: &dyn Fn(&RunResult) -> Option<String>) -> String {
    let mut out = String::new();
    for run in runs {
        for check in run.checks.iter().filter(|check| noted(run, check)) {
            let level = match check.status {
                Verdict::Skipped => "warning",
                _ => "error",
            };
            let title = format!("{}: {} {}", run.scenario.name, check.name, check.status);
            out += &command(level, file(run).as_deref(), &title, &check.evidence);
        }
    }
    out
}

/// Whether a check deserves an annotation. One that was skipped does if the run was for it.
fn noted(run: &RunResult, check: &Check) -> bool {
    match check.status {
        Verdict::Held => false,
        Verdict::Violated | Verdict::Error => true,
        Verdict::Skipped => run.verdict == Verdict::Skipped,
    }
}

/// A workflow command (docs.github.com, "Workflow commands for GitHub Actions") that makes an
/// annotation, with a newline. `level`: `error`, `warning` or `notice`.
#[must_use]
pub fn command(level: &str, file: Option<&str>, title: &str, message: &str) -> String {
    let file = file.map_or_else(String::new, |file| format!("file={},", property(file)));
    let message = data(&shortened(message));
    format!("::{level} {file}title={}::{message}\n", property(title))
}

/// Escapes a command's message, as actions/toolkit does (packages/core/src/command.ts).
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// Escapes a command's property, likewise.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// The results as a table in Markdown, and what is behind each verdict that is not `held`.
#[must_use]
pub fn summary(runs: &[RunResult]) -> String {
    let mut out = String::from("### ipirig\n\n");
    out += "| verdict | scenario | deferral | IPIs to isolated vCPUs | seconds |\n";
    out += "| --- | --- | --- | --- | --- |\n";
    for run in runs {
        let deferral = if run.scenario.deferral { "on" } else { "off" };
        let isolated = run.vcpus.iter().filter(|vcpu| vcpu.role == "isolated");
        let ipis = if run.vcpus.is_empty() {
            "-".to_owned()
        } else {
            let ipis: u64 = isolated.map(|vcpu| vcpu.window.ipis_targeted).sum();
            ipis.to_string()
        };
        let only = if run.isolation_only {
            " (isolation only)"
        } else {
            ""
        };
        let _ = writeln!(
            out,
            "| {} **{}**{only} | {} | {deferral} | {ipis} | {:.1} |",
            mark(run.verdict),
            run.verdict,
            cell(&run.scenario.name),
            run.timing.total_s
        );
    }
    let noted: Vec<(&RunResult, &Check)> = runs
        .iter()
        .flat_map(|run| run.checks.iter().map(move |check| (run, check)))
        .filter(|(run, check)| noted(run, check))
        .collect();
    if !noted.is_empty() {
        out += "\n| scenario | check | status | evidence |\n| --- | --- | --- | --- |\n";
        for (run, check) in noted {
            let (name, evidence) = (cell(&run.scenario.name), cell(&check.evidence));
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {evidence} |",
                check.name, check.status
            );
        }
    }
    out.push('\n');
    out
}

/// What a person sees first.
fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Held => ":white_check_mark:",
        Verdict::Violated => ":x:",
        Verdict::Error => ":grey_question:",
        Verdict::Skipped => ":fast_forward:",
    }
}

/// Text in a cell of a table, where it means nothing but itself (GitHub Flavored Markdown 4.10, 6.1;
/// CommonMark 2.4).
fn cell(text: &str) -> String {
    let mut out = String::new();
    for c in shortened(text).chars() {
        match c {
            '\n' => out += "<br>",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '&' => out += "&amp;",
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '@' | '#' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}...", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{run, runs};

    #[test]
    fn what_is_not_as_it_should_be_is_annotated_and_escaped() {
        let file = |run: &RunResult| {
            let file = format!("scenarios/{},50%:.toml", run.scenario.name);
            (run.scenario.name == "vunmap-storm").then_some(file)
        };
        assert_eq!(
            annotations(&runs(), &file),
            "\
::error file=scenarios/vunmap-storm%2C50%25%3A.toml,title=vunmap-storm%3A isolated-ipis violated::vCPU 2: 101 <IPIs>, \"1\" & 'more'
::error file=scenarios/vunmap-storm%2C50%25%3A.toml,title=vunmap-storm%3A flag-order error::a record of%0Atwo lines|%0D%0Aor three
::error title=vmap-stack%3A run error::boot: Kernel panic - not syncing: VFS: \x1b[1mno root
::warning title=set-memory%3A run skipped::/dev/kvm does not exist
"
        );
    }

    #[test]
    fn evidence_cannot_make_a_command_of_its_own_or_go_on_for_ever() {
        let evil = format!("\n::stop-commands::x\r{}", "é".repeat(MOST));
        let runs = [run("vmap-stack", &[("run", Verdict::Error, &evil)])];
        let lines = annotations(&runs, &|_| None);
        assert_eq!((lines.lines().count(), lines.ends_with("...\n")), (1, true));
        assert!(
            lines.contains("run error::%0A::stop-commands::x%0D"),
            "{lines}"
        );
    }

    #[test]
    fn the_summary_is_a_table_with_the_reasons_below_it() {
        assert_eq!(
            summary(&runs()),
            "\
### ipirig

| verdict | scenario | deferral | IPIs to isolated vCPUs | seconds |
| --- | --- | --- | --- | --- |
| :white_check_mark: **held** (isolation only) | static-key-flip | on | - | 12.2 |
| :x: **violated** | vunmap-storm | on | - | 12.2 |
| :grey_question: **error** | vmap-stack | on | - | 12.2 |
| :fast_forward: **skipped** | set-memory | on | - | 12.2 |

| scenario | check | status | evidence |
| --- | --- | --- | --- |
| vunmap-storm | isolated-ipis | violated | vCPU 2: 101 &lt;IPIs&gt;, \"1\" &amp; 'more' |
| vunmap-storm | flag-order | error | a record of<br>two lines\\| <br>or three |
| vmap-stack | run | error | boot: Kernel panic - not syncing: VFS:  \\[1mno root |
| set-memory | run | skipped | /dev/kvm does not exist |

"
        );
    }
}
