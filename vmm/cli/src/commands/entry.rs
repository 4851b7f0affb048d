//! `ipirig entry`.

use std::path::Path;

use anyhow::{Context, anyhow};
use ipirig_args::EntryArgs;
use ipirig_checks::recorded::RecordedEntry;
use ipirig_document::RunDocument;
use ipirig_entry::Extent;
use ipirig_report::render::render;
use ipirig_scenario::{EntryKind, Scenario};
use ipirig_verdict::exit::Code;

use super::run::{Outcome, perform};
use crate::failure::Failure;
use crate::output::{not_written, print, stderr_paint, write_file};
use crate::pictures;
use crate::say::say;

pub(crate) fn entry(args: EntryArgs) -> Result<Code, Failure> {
    let mut scenario = Scenario::find(&args.scenario).map_err(Failure::usage)?;
    if !args.kind.is_empty() {
        scenario.entries = kinds(&args.kind)?;
    }
    let json = args.options.json.clone();
    if json.as_deref() == Some(Path::new("-")) {
        let error = anyhow!("--json -: standard output has the listing; give a file");
        return Err(Failure::usage(error));
    }
    pictures::check(&args.pictures)?;
    let extent = if args.whole {
        Extent::Whole
    } else {
        Extent::Ends
    };
    let outcome = perform(scenario, args.options)?;
    let Outcome { result, .. } = &outcome;
    let listings: Vec<String> = result
        .entries
        .iter()
        .map(|entry| listed(entry, extent))
        .collect();
    print(&listings.join("\n"))?;
    say(&render(result, stderr_paint()));
    if let Some(path) = json {
        let text = RunDocument::from(result)
            .to_json()
            .context("cannot put the result into JSON")?;
        write_file(&path, &text).map_err(not_written)?;
    }
    pictures::write(&args.pictures, std::slice::from_ref(result))?;
    outcome.advise();
    Ok(outcome.whole()?.result.verdict.into())
}

fn kinds(names: &[String]) -> Result<Vec<EntryKind>, Failure> {
    let find = |name: &String| {
        EntryKind::find(name).ok_or_else(|| {
            let all = EntryKind::ALL.map(EntryKind::name).join(", ");
            Failure::usage(anyhow!("--kind {name}: there are {all}"))
        })
    };
    names.iter().map(find).collect()
}

fn listed(entry: &RecordedEntry, extent: Extent) -> String {
    let title = format!("vCPU {}, {}", entry.cpu, entry.title);
    match &entry.listing {
        Some(listing) => format!("{title}\n{}", listing.text(extent)),
        None => {
            let why = entry.why.as_deref().unwrap_or("not recorded");
            format!("{title}\nno listing: {why}\n")
        }
    }
}
