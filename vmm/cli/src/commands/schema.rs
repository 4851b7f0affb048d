//! `ipirig schema`.

use anyhow::Context;
use ipirig_rig::exit::Code;
use ipirig_rig::schema;

use crate::failure::Failure;
use crate::output::print;

pub(crate) fn schema() -> Result<Code, Failure> {
    let text = schema::schema().context("cannot make the schema")?;
    print(&text)?;
    Ok(Code::Ok)
}
