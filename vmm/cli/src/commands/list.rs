//! `ipirig list`.

use anyhow::Context;
use ipirig_rig::exit::Code;
use ipirig_rig::render;
use ipirig_rig::scenario::Scenario;

use crate::failure::Failure;
use crate::output::{print, stdout_paint};

pub(crate) fn list() -> Result<Code, Failure> {
    let scenarios = Scenario::all().context("a built-in scenario is broken")?;
    print(&render::list(&scenarios, stdout_paint()))?;
    Ok(Code::Ok)
}
