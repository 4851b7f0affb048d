//! `ipirig compare`.

use ipirig_args::CompareArgs;
use ipirig_gate::{Recorded, code, side_by_side};
use ipirig_report::gate::{render, table};
use ipirig_verdict::exit::Code;

use crate::failure::Failure;
use crate::output::{print, stdout_paint};

pub(crate) fn compare(args: &CompareArgs) -> Result<Code, Failure> {
    let read = |path| Recorded::read(path).map_err(Failure::usage);
    let (first, second) = (read(&args.first)?, read(&args.second)?);
    let compared = side_by_side(&first, &second);
    print(&format!(
        "{}{}",
        table(&first, &second),
        render(&compared, stdout_paint())
    ))?;
    Ok(code(&compared))
}
