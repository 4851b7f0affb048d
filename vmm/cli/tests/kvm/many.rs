//! Runs of many vCPUs.

use libtest_mimic::Failed;

use crate::harness::{ensure, held};

/// With more than 20 the kernel (6.12) refuses to switch off the deadline server of an isolated CPU: the isolated task is
/// put before what that server serves, and is left alone for as long as such a machine takes.
pub(crate) fn not_served() -> Result<(), Failed> {
    let result = held("static-key-flip", &["--vcpus", "24", "--timeout", "600"])?;
    let off = result["kernel"]["setup"]["switched_off"].as_array();
    let off: Vec<_> = off.into_iter().flatten().collect();
    let refused = |of: &str| {
        let by = |by: &str| by.contains(of);
        let one = off.iter().find(|it| it["by"].as_str().is_some_and(by))?;
        Some(one["refused"].as_str().unwrap_or("no").to_owned())
    };
    let server = refused("fair_server/cpu23");
    let policy = refused("SCHED_FIFO");
    ensure(
        server.as_deref() == Some("EBUSY (Device or resource busy)")
            && policy.as_deref() == Some("no"),
        || format!("server refused: {server:?}, SCHED_FIFO refused: {policy:?}"),
    )
}
