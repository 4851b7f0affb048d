//! `ipirig list`.

use anyhow::Context;
use ipirig_report::render;
use ipirig_scenario::Scenario;
use ipirig_verdict::exit::Code;

use crate::failure::Failure;
use crate::output::{print, stdout_paint};

pub(crate) fn list() -> Result<Code, Failure> {
    let scenarios = Scenario::all().context("a built-in scenario is broken")?;
    print(&render::list(&scenarios, stdout_paint()))?;
    Ok(Code::Ok)
}
