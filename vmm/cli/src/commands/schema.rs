//! `ipirig schema`.

use anyhow::Context;
use ipirig_args::SchemaOf;
use ipirig_document::schema;
use ipirig_verdict::exit::Code;

use crate::failure::Failure;
use crate::output::print_file;

pub(crate) fn schema(of: SchemaOf) -> Result<Code, Failure> {
    let text = match of {
        SchemaOf::Run => schema::schema(),
        SchemaOf::Audit => schema::audit(),
        SchemaOf::Scenario => ipirig_scenario::schema::schema(),
        SchemaOf::Sweep => schema::sweep(),
    };
    let text = text.context("cannot make the schema")?;
    print_file(&text)?;
    Ok(Code::Ok)
}
