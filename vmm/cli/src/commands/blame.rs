//! `ipirig blame`.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};
use ipirig_args::{BlameArgs, RunOptions};
use ipirig_checks::check::Verdict;
use ipirig_document::{RunDocument, SCHEMA_VERSION};
use ipirig_report::attribution::Account;
use ipirig_report::render::render;
use ipirig_scenario::Scenario;
use ipirig_verdict::exit::Code;
use ipirig_verdict::result::RunResult;

use super::run::perform;
use crate::failure::Failure;
use crate::output::{check_writable, not_written, print, stderr_paint, stdout_paint, write_file};
use crate::say::say;

/// Most bytes of a result that is read.
const MAX_RESULT: u64 = 256 << 20;

pub(crate) fn blame(args: BlameArgs) -> Result<Code, Failure> {
    if let Some(path) = &args.folded {
        check_writable(path).map_err(Failure::usage)?;
    }
    let (account, code) = if args.what.ends_with(".json") {
        let account = read(Path::new(&args.what)).map_err(Failure::usage)?;
        (account, Code::Ok)
    } else {
        run(&args.what, args.options)?
    };
    print(&account.table(args.to, stdout_paint()))?;
    if let Some(path) = &args.folded {
        write_file(path, &account.folded(args.to)).map_err(not_written)?;
    }
    Ok(code)
}

/// The account of a run. What the verdict on it is, is not asked here: any that rests on evidence is
/// well.
fn run(scenario: &str, options: RunOptions) -> Result<(Account, Code), Failure> {
    if options.no_stacks {
        let error = anyhow!("--no-stacks: without stacks there is nothing to account for");
        return Err(Failure::usage(error));
    }
    let json = options.json.clone();
    if json.as_deref() == Some(Path::new("-")) {
        let error = anyhow!("--json -: standard output has the table; give a file");
        return Err(Failure::usage(error));
    }
    let scenario = Scenario::find(scenario).map_err(Failure::usage)?;
    let outcome = perform(scenario, options)?;
    let result = &outcome.result;
    let code = code(result);
    if code != Code::Ok {
        say(&render(result, stderr_paint()));
    }
    if let Some(path) = json {
        let text = RunDocument::from(result)
            .to_json()
            .context("cannot put the result into JSON")?;
        write_file(&path, &text).map_err(not_written)?;
    }
    outcome.advise();
    Ok((Account::from(&outcome.whole()?.result), code))
}

fn code(result: &RunResult) -> Code {
    match result.verdict {
        Verdict::Held | Verdict::Violated => Code::Ok,
        other => other.into(),
    }
}

fn read(path: &Path) -> anyhow::Result<Account> {
    let shown = path.display();
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(MAX_RESULT).read_to_string(&mut text))
        .with_context(|| format!("cannot read {shown}"))?;
    let account: Account = serde_json::from_str(&text)
        .with_context(|| format!("{shown} is not the result of one run"))?;
    let version = account.schema_version;
    ensure!(
        version == SCHEMA_VERSION,
        "{shown} has schema version {version}, this ipirig reads {SCHEMA_VERSION}"
    );
    Ok(account)
}
