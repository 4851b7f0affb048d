//! `ipirig audit`.

use std::path::Path;

use anyhow::{Context, anyhow};
use ipirig_args::AuditArgs;
use ipirig_verdict::exit::Code;

use crate::failure::Failure;
use crate::output::{
    check_writable, not_written, print, print_file, stderr_paint, stdout_paint, write_file,
};
use crate::say::say;

pub(crate) fn audit(args: &AuditArgs) -> Result<Code, Failure> {
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    if let Some(path) = args.json.as_deref().filter(|_| !to_stdout) {
        check_writable(path).map_err(Failure::usage)?;
    }
    let audit = ipirig_audit::audit(&args.vmlinux).map_err(|error| {
        let code = Code::from(&error);
        let context = format!("cannot audit {}", args.vmlinux.display());
        Failure::with_code(code, anyhow!(error).context(context))
    })?;
    let json = || {
        let text =
            serde_json::to_string_pretty(&audit).context("cannot put the audit into JSON")?;
        Ok::<_, anyhow::Error>(text + "\n")
    };
    if to_stdout {
        print_file(&json()?)?;
        say(&ipirig_report::audit::audit(&audit, stderr_paint()));
    } else {
        print(&ipirig_report::audit::audit(&audit, stdout_paint()))?;
        if let Some(path) = &args.json {
            write_file(path, &json()?).map_err(not_written)?;
        }
    }
    Ok(Code::from(&audit))
}
