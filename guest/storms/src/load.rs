//! Loads: what a busy machine does that makes its kernel interrupt every CPU, over and over.
//!
//! A storm does a number of operations that the rig asks for; a load goes on until it is told to end, by SIGTERM, and
//! finishes the operation that it is at: a CPU that it took down is up again, and what it turned on is off. A new one is a
//! line in `LOADS`.

mod hotplug;
mod knob;
mod membarrier;
mod net;
mod perf;
mod pipe;

use std::ffi::CString;
use std::time::Duration;

use ipirig_abi::StormKind;
use ipirig_abi::observe::{NO_LOAD, ROUNDS};

use crate::children::{self, Children};
use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};
use ipirig_system::{During, Errno, process, sys};
use knob::Knob;

/// Between two operations of a load. Real ones also do something else in between.
const PAUSE: Duration = Duration::from_millis(10);
/// Processes that live at once in the load `fork`: more than a CPU keeps stacks for.
const FORKS: u64 = 8;
/// Exit code for a command that makes no sense: sysexits.h, EX_USAGE.
const USAGE: i32 = 64;

/// A load that the command `load` knows.
struct Load {
    name: &'static str,
    /// What it does, in a line.
    what: &'static str,
    run: Run,
}

/// One operation of a load.
enum Run {
    /// One of its own.
    Own(fn() -> Result<(), StormError>),
    /// The same, with the kernel's files.
    With(fn(&Interfaces<'_>) -> Result<(), StormError>),
    /// Writes to one of the kernel's files.
    Turn(Knob),
    /// One of a storm.
    Storm(StormKind),
}

/// Queues work on every CPU (`vmstat_refresh` of mm/vmstat.c).
const STAT_REFRESH: Knob = Knob {
    file: "proc/sys/vm/stat_refresh",
    values: &["1"],
    needs: "CONFIG_PROC_SYSCTL",
};

/// Every load.
const LOADS: &[Load] = &[
    Load {
        name: "idle",
        what: "nothing at all",
        run: Run::Own(|| Ok(())),
    },
    Load {
        name: "fork",
        what: "processes come and go; the stack of each is a vmalloc area",
        run: Run::Own(fork),
    },
    Load {
        name: "bpf",
        what: "BPF programs are compiled, attached to sockets and freed",
        run: Run::Storm(StormKind::BpfJit),
    },
    Load {
        name: "net",
        what: "the loopback goes up and down; sockets ask for packets and time stamps",
        run: Run::Own(net::run),
    },
    Load {
        name: "keys",
        what: "a sysctl turns scheduler statistics, a static key, on and off",
        run: Run::Turn(Knob {
            file: "proc/sys/kernel/sched_schedstats",
            values: &["1", "0"],
            needs: "CONFIG_SCHEDSTATS",
        }),
    },
    Load {
        name: "membarrier",
        what: "membarrier(2), expedited, of the caller's and of all registered processes",
        run: Run::Own(membarrier::run),
    },
    Load {
        name: "perf",
        what: "a counter is opened on every CPU and closed again, as `perf stat -a` does",
        run: Run::Own(perf::run),
    },
    Load {
        name: "module",
        what: "a module is loaded and unloaded",
        run: Run::Storm(StormKind::ModuleLoad),
    },
    Load {
        name: "tracepoint",
        what: "a trace event is turned on and off",
        run: Run::Storm(StormKind::Tracepoint),
    },
    Load {
        name: "kprobe",
        what: "a kprobe is added and removed",
        run: Run::Storm(StormKind::Kprobe),
    },
    Load {
        name: "vmstat",
        what: "a sysctl has each CPU's statistics of memory summed up",
        run: Run::Turn(STAT_REFRESH),
    },
    Load {
        name: "caches",
        what: "the page cache is dropped, after what each CPU keeps of it",
        run: Run::Turn(Knob {
            file: "proc/sys/vm/drop_caches",
            values: &["1"],
            needs: "CONFIG_PROC_SYSCTL",
        }),
    },
    Load {
        name: "compact",
        what: "memory is compacted, after what each CPU keeps of it",
        run: Run::Turn(Knob {
            file: "proc/sys/vm/compact_memory",
            values: &["1"],
            needs: "CONFIG_COMPACTION",
        }),
    },
    Load {
        name: "hugetlb",
        what: "huge pages are set aside and given back",
        run: Run::Turn(Knob {
            file: "proc/sys/vm/nr_hugepages",
            values: &["2", "0"],
            needs: "CONFIG_HUGETLBFS",
        }),
    },
    Load {
        name: "ignore-ce",
        what: "the poll for corrected machine checks is turned off and on, on each CPU",
        run: Run::Turn(Knob {
            file: "sys/devices/system/machinecheck/machinecheck0/ignore_ce",
            values: &["1", "0"],
            needs: "machine checks (CONFIG_X86_MCE, and a CPU that has them)",
        }),
    },
    Load {
        name: "hotplug",
        what: "a housekeeping CPU goes offline and comes back",
        run: Run::With(hotplug::run),
    },
    Load {
        name: "trace-pipe",
        what: "somebody waits for an event in the trace of the isolated CPU",
        run: Run::With(|interfaces| pipe::run(interfaces, &STAT_REFRESH)),
    },
];

/// The command `load`: runs the loads of these names, each in a process of its own, until somebody tells the group of
/// these processes to end, or `--rounds N` times. Without names, tries each once and says which there are.
/// Returns the exit code.
pub fn main(words: &[CString], interfaces: &Interfaces<'_>) -> i32 {
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    let (rounds, names) = match &words[..] {
        [flag, rest @ ..] if flag == ROUNDS => {
            let count = rest.first().and_then(|count| count.parse().ok());
            let Some(count @ 1_u64..) = count else {
                println!("load: {ROUNDS} wants a number from 1, then the names of loads");
                return USAGE;
            };
            (Some(count), &rest[1..])
        }
        names => (None, names),
    };
    if names.is_empty() {
        for load in LOADS {
            println!(
                "{:<11} {:<77} {}",
                load.name,
                load.what,
                offered(load, interfaces)
            );
        }
        return 0;
    }
    let mut chosen = Vec::new();
    for name in names {
        match LOADS.iter().find(|load| load.name == name) {
            Some(load) => chosen.push(load),
            None => {
                let known: Vec<&str> = LOADS.iter().map(|load| load.name).collect();
                println!("load: no load `{name}`: there are {}", known.join(", "));
                return USAGE;
            }
        }
    }
    if let Err(errno) = process::end_when_asked() {
        println!("load: cannot wait to be told to end: {errno}");
        return 1;
    }
    chosen.retain(|load| match once(load, interfaces) {
        Ok(()) => true,
        Err(why) => {
            println!("load: {}: {why}", load.name);
            false
        }
    });
    if chosen.is_empty() {
        return NO_LOAD.into();
    }
    let mut children = Children::default();
    for load in chosen {
        let started = children.add(|| repeat(load, rounds, interfaces));
        if let Err(errno) = started {
            println!("load: cannot start {}: {errno}", load.name);
            return 1;
        }
    }
    // What is told before all were there does not reach each.
    let ended = if process::asked_to_end(Duration::ZERO) {
        children.end()
    } else {
        Ok(())
    };
    match ended.and_then(|()| children.join()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Whether the kernel has what a load needs: for a person.
fn offered(load: &Load, interfaces: &Interfaces<'_>) -> String {
    match once(load, interfaces) {
        Ok(()) => "offered".to_owned(),
        Err(why) => why,
    }
}

fn once(load: &Load, interfaces: &Interfaces<'_>) -> Result<(), String> {
    let outcome = match load.run {
        Run::Own(run) => run(),
        Run::With(run) => run(interfaces),
        Run::Turn(ref knob) => knob.turn(interfaces.root),
        Run::Storm(kind) => {
            let request = StormRequest {
                kind,
                operations: 1,
                size: 0,
                target: 0,
            };
            crate::run(interfaces, &request, &mut Progress::default())
        }
    };
    outcome.map_err(|stopped| match stopped {
        StormError::NoModule => "lacking: the initramfs has no /ipirig.ko".to_owned(),
        StormError::Lacking(what) => format!("lacking: {what}"),
        StormError::Failed(failure) => format!("failed: {failure}"),
    })
}

/// Does a load a number of times, or until it is told to end.
fn repeat(load: &Load, rounds: Option<u64>, interfaces: &Interfaces<'_>) -> Result<(), Errno> {
    let mut done = 0;
    while rounds != Some(done) {
        if let Err(why) = once(load, interfaces) {
            println!("load: {}: {why}", load.name);
            sys::exit(1);
        }
        done += 1;
        if process::asked_to_end(PAUSE) {
            break;
        }
    }
    Ok(())
}

fn fork() -> Result<(), StormError> {
    Ok(children::come_and_go(FORKS).during(|| format!("create and kill {FORKS} processes"))?)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::interfaces::Symbols;

    fn run(names: &[&str]) -> i32 {
        let interfaces = Interfaces {
            triggers: None,
            housekeeping: &[0],
            symbols: Symbols::default(),
            root: Path::new("/nonexistent"),
            mount_tracefs: |_| Err(Errno(libc::ENODEV)),
        };
        let names: Vec<CString> = names
            .iter()
            .map(|&name| CString::new(name).unwrap())
            .collect();
        main(&names, &interfaces)
    }

    #[test]
    fn a_load_that_nobody_knows_or_that_nothing_can_carry_ends_at_once() {
        assert_eq!(run(&["fork", "nonesuch"]), USAGE);
        // The module is not in this root.
        assert_eq!(run(&["module"]), i32::from(NO_LOAD));
    }

    #[test]
    fn rounds_end_a_load_and_senseless_ones_are_refused() {
        assert_eq!(run(&["--rounds", "2", "idle"]), 0);
        for senseless in [
            &["--rounds"][..],
            &["--rounds", "0", "idle"],
            &["--rounds", "idle"],
        ] {
            assert_eq!(run(senseless), USAGE, "{senseless:?}");
        }
    }

    #[test]
    fn no_two_loads_share_a_name() {
        let mut names: Vec<&str> = LOADS.iter().map(|load| load.name).collect();
        // The rig refuses other names before anything boots.
        assert_eq!(names, ipirig_abi::observe::LOADS);
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), LOADS.len());
    }
}
