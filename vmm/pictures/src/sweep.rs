//! A sweep as a web page: a strip for each path and event, a cell an instruction. A cell that is violated
//! leads to what is wrong there.

use askama::Template;
use ipirig_document::strip::{Strip, strips};
use ipirig_sweep::{PointResult, Status, SweepResult};

use crate::html::{HtmlError, unprintable};

#[derive(Template)]
#[template(path = "sweep.html")]
struct Page<'r> {
    verdict: &'r str,
    kernel: &'r str,
    strips: Vec<StripView>,
}

/// A strip, and what is to be said of it.
struct StripView {
    name: String,
    summary: String,
    cells: Vec<Cell>,
}

/// A point.
struct Cell {
    name: String,
    class: &'static str,
    /// Its instruction, and the rule by which it was judged.
    title: String,
    /// What is wrong there, if anything.
    why: Option<String>,
}

/// The page. `explained` says in lines what is wrong at a point.
///
/// # Errors
///
/// [`HtmlError`], which only a bug could cause.
pub fn html(
    result: &SweepResult,
    explained: &dyn Fn(&PointResult) -> String,
) -> Result<String, HtmlError> {
    let view = |strip: Strip<'_>| StripView {
        cells: strip
            .points
            .iter()
            .map(|point| Cell::new(result, point, explained))
            .collect(),
        name: strip.name,
        summary: strip.summary,
    };
    let page = Page {
        verdict: &result.verdict,
        kernel: result.kernel.as_deref().unwrap_or_default().trim(),
        strips: strips(result).into_iter().map(view).collect(),
    };
    let page = page.render().map_err(HtmlError)?;
    Ok(page.replace(unprintable, "\u{fffd}") + "\n")
}

impl Cell {
    fn new(
        result: &SweepResult,
        point: &PointResult,
        explained: &dyn Fn(&PointResult) -> String,
    ) -> Self {
        let class = match point.status {
            Status::Held => "held",
            Status::Violated => "violated",
            Status::Missed => "missed",
            Status::Error => "error",
        };
        let path = point.point.path.to_string();
        let path = result.paths.iter().find(|it| it.path == path);
        let instruction = path.and_then(|path| path.instructions.get(point.point.number));
        let about = instruction.map(|it| format!(" {}: {}", it.address, it.text));
        let rule = point.rule.map(|rule| format!(" ({rule})"));
        let name = point.point.to_string();
        let wrong = matches!(point.status, Status::Violated | Status::Error);
        Self {
            title: [Some(name.clone()), about, rule]
                .into_iter()
                .flatten()
                .collect(),
            name,
            class,
            why: wrong.then(|| explained(point).trim().to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use ipirig_sweep::judge::{Invariant, Violation};
    use ipirig_sweep::result::{InstructionResult, SCHEMA_VERSION, Timing};
    use ipirig_sweep::{Outcome, PathResult};

    use super::*;

    #[test]
    fn a_violated_cell_leads_to_what_is_said_of_it_and_all_text_is_escaped() {
        let point = |name: &str, outcome| PointResult::new(name.parse().unwrap(), outcome, None);
        let violated = Outcome::Violated(vec![Violation {
            invariant: Invariant::SentOrDeferred,
            at: "f+0x4".to_owned(),
            words: "sends nothing".to_owned(),
        }]);
        let instruction = |address: &str, text: &str| InstructionResult {
            address: address.to_owned(),
            text: text.to_owned(),
        };
        let result = SweepResult {
            schema_version: SCHEMA_VERSION,
            verdict: "violated".to_owned(),
            why: None,
            shard: "1/1".to_owned(),
            complete: true,
            kernel: Some("Linux <6.12>\u{202e}\n".to_owned()),
            paths: vec![PathResult {
                path: "sender-flip".to_owned(),
                instructions: vec![instruction("f", "nop"), instruction("f+0x4", "mov \"%al\"")],
                why: None,
            }],
            points: vec![
                point("entry@sender-flip+0", Outcome::Held),
                point("entry@sender-flip+1", violated),
            ],
            timing: Timing::default(),
        };
        let page = html(&result, &|_| "<nothing>\n".to_owned()).unwrap();
        let (_, body) = page.split_once("<body>\n").unwrap();
        assert_eq!(
            body,
            "\
<h1>Sweep: violated</h1>
<p>Linux &#60;6.12&#62;\u{fffd}</p>
<h2>entry@sender-flip</h2>
<p>2 hit, 0 missed, 1 violated, 0 errors</p>
<div class=\"strip\"><i class=\"held\" title=\"entry@sender-flip+0 f: nop\"></i>\
<a class=\"violated\" href=\"#entry@sender-flip+1\" title=\"entry@sender-flip+1 f+0x4: mov &#34;%al&#34;\"></a></div>
<pre id=\"entry@sender-flip+1\">&#60;nothing&#62;</pre>
</body>
</html>
"
        );
    }
}
