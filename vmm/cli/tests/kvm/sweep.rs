//! Events at each instruction of a path.

use libtest_mimic::Failed;
use serde_json::Value;

use crate::harness::{ensure, ipirig, stderr};

/// The path that is swept: the way out of a system call is the shortest.
const PATH: &str = "syscall-exit";

fn swept(args: &[&str], code: i32) -> Result<(Value, String), Failed> {
    let output = ipirig(&[&["sweep", "--json", "-"], args].concat());
    let strips = stderr(&output);
    ensure(output.status.code() == Some(code), || {
        format!("{:?} instead of exit code {code}\n{strips}", output.status)
    })?;
    Ok((serde_json::from_slice(&output.stdout)?, strips))
}

/// An NMI, and a flip by the sender, at each fourth instruction: all are hit, and hold. The flip
/// interrupts the CPU until that has cleared its flag, and not from there on.
pub(crate) fn a_path() -> Result<(), Failed> {
    let args = [PATH, "--event", "nmi,flip,timer", "--shard", "1/4"];
    let (result, strips) = swept(&args, 0)?;
    ensure(
        result["verdict"] == "held" && result["complete"] == true,
        || strips.clone(),
    )?;
    let of = |event: &str| -> Vec<&Value> {
        let points = result["points"].as_array().into_iter().flatten();
        let prefix = format!("{event}@{PATH}+");
        let named = |point: &&Value| {
            point["point"]
                .as_str()
                .is_some_and(|name| name.starts_with(&prefix))
        };
        points.filter(named).collect()
    };
    let (nmi, flip, timer) = (of("nmi"), of("flip"), of("timer"));
    let hit = |points: &[&Value]| {
        points.len() > 5 && points.iter().all(|point| point["status"] == "held")
    };
    ensure(hit(&nmi) && hit(&flip), || strips.clone())?;
    let missed = timer
        .iter()
        .all(|point| point["status"] == "missed" && point["rule"] == "if-clear");
    ensure(!timer.is_empty() && missed, || strips.clone())?;
    let sent: Vec<bool> = flip.iter().map(|point| point["ipis"] != 0).collect();
    let deferred = sent.iter().position(|sent| !sent);
    let once = deferred.is_some_and(|from| from > 0 && sent[from..].iter().all(|sent| !sent));
    ensure(once, || format!("{sent:?}\n{strips}"))
}

/// What is no path, no event and no point is said, and nothing is booted.
pub(crate) fn misspelt() -> Result<(), Failed> {
    for (args, told) in [
        (["sweep", "syscal"].as_slice(), "no path is called"),
        (&["sweep", "--event", "smi"], "no event is called"),
        (&["sweep", "--point", "nmi@syscall"], "is no point"),
        (&["sweep", "--shard", "3/2"], "is no part of a sweep"),
    ] {
        let output = ipirig(args);
        let said = stderr(&output);
        ensure(
            output.status.code() == Some(2) && said.contains(told),
            || format!("{args:?}: {:?} {said}", output.status),
        )?;
    }
    Ok(())
}
