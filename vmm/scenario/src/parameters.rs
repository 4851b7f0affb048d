//! The rig's own words on the kernel command line.

/// What a parameter's value is made of.
#[derive(Clone, Copy)]
pub(crate) enum Value {
    /// The parameter as it stands.
    Plain,
    /// The isolated CPUs, after this prefix.
    Isolated(&'static str),
    /// The same after flags, of which the first keeps a CPU from being taken offline.
    Flagged(&'static str, &'static str),
    /// The other CPUs.
    Others,
    /// `on` or `off`.
    Deferral,
    /// Only where isolated CPUs are to have no tasks.
    NoTasks,
    /// As it stands, unless the kernel is to be left as it is; what would come without.
    Quiets(&'static str),
    /// Only where the kernel is to be left as it is.
    AsIs,
}

/// Every parameter and why it is there. In the order of the command line.
pub(crate) const PARAMETERS: &[(&str, Value)] = &[
    // Where the machine reads messages; few of them, because each byte is an exit.
    ("console=ttyS0", Value::Plain),
    ("quiet", Value::Plain),
    // A panic resets at once, and the machine reports it; no firmware is there to reboot with.
    ("panic=-1", Value::Plain),
    ("reboot=k", Value::Plain),
    // The rig reports an oops as what it is rather than go on with a broken kernel.
    ("oops=panic", Value::Plain),
    (
        "tsc=reliable",
        Value::Quiets(
            "the clocksource watchdog's timer visits one CPU after the other (kernel/time/clocksource.c)",
        ),
    ),
    // No tick on a CPU that runs one task, RCU callbacks elsewhere (implied): the set of CPUs whose
    // kernel work is deferred.
    ("nohz_full=", Value::Isolated("")),
    // No load balancing onto them, and no managed interrupts.
    //
    // Without the first where they are to be taken offline: a CPU in no scheduling domain is the last of
    // its own, which 6.12 then thinks has deadline bandwidth to lose (dl_bw_manage of
    // kernel/sched/deadline.c), EBUSY. Nor where a cpuset is to do it.
    ("isolcpus=", Value::Flagged("domain,", "managed_irq,")),
    // Device interrupts, should there be any, go elsewhere.
    ("irqaffinity=", Value::Others),
    // Deferral rests on the CR3 switch of page-table isolation, which CPUs without Meltdown
    // leave off by default.
    ("pti=on", Value::Plain),
    // Read by the reference series; other kernels hand an unknown parameter to init.
    ("ipi_deferral=", Value::Deferral),
    // Handed to init, which is the agent, as one of its environment variables.
    (ipirig_abi::TASKS, Value::NoTasks),
    // Periodic visitors in kernels other than the reference one, which is built without them: hard
    // and soft lockup detection, polling for corrected errors.
    (
        "nowatchdog",
        Value::Quiets("the lockup watchdog arms a timer on each CPU (kernel/watchdog.c)"),
    ),
    (
        "mce=ignore_ce",
        Value::Quiets(
            "a timer on each CPU polls for corrected errors (arch/x86/kernel/cpu/mce/core.c)",
        ),
    ),
    // Handed to the agent, as the other.
    (ipirig_abi::SETTINGS, Value::AsIs),
];

/// A parameter's name: the word up to its `=`.
pub(crate) fn name(word: &str) -> &str {
    word.split('=').next().unwrap_or(word)
}

/// A word that is none of the rig's own.
#[derive(Debug)]
pub(crate) struct NotOurs {
    /// The word.
    pub(crate) word: String,
    /// The names of the rig's own.
    pub(crate) known: String,
}

/// The names of the rig's own words that `asked`, as the user wrote them, stand for.
pub(crate) fn left_out(asked: &[String]) -> Result<Vec<String>, NotOurs> {
    let of_all = |(_, value): &&(&str, Value)| !matches!(value, Value::NoTasks | Value::AsIs);
    let known = || PARAMETERS.iter().filter(of_all).map(|(word, _)| name(word));
    asked
        .iter()
        .map(|word| {
            let wanted = name(word);
            if known().any(|name| name == wanted) {
                Ok(wanted.to_owned())
            } else {
                Err(NotOurs {
                    word: word.clone(),
                    known: known().collect::<Vec<_>>().join(", "),
                })
            }
        })
        .collect()
}
