//! The command `load`: whether the agent has the loads that it names.

use ipirig_abi::observe::{LOAD, LOADS, ROUNDS};
use ipirig_scenario::suggest::closest;

/// A load that the agent does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("load {name}: there is no such load; {}there are {}", hint(name), LOADS.join(", "))]
pub struct UnknownLoad {
    /// As the user wrote it.
    pub name: String,
}

fn hint(name: &str) -> String {
    closest(name, LOADS).map_or_else(String::new, |name| format!("did you mean {name}? "))
}

/// That a command which begins with `load` names loads of the agent's; of other commands nothing is known.
///
/// # Errors
///
/// The first one that there is not.
pub fn check(command: &[String]) -> Result<(), UnknownLoad> {
    let names = match command {
        [first, rounds, _, names @ ..] if first == LOAD && rounds == ROUNDS => names,
        [first, names @ ..] if first == LOAD => names,
        _ => return Ok(()),
    };
    match names.iter().find(|name| !LOADS.contains(&name.as_str())) {
        Some(name) => Err(UnknownLoad { name: name.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(command: &[&str]) -> String {
        let words: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
        check(&words).map_or_else(|error| error.to_string(), |()| "fine".to_owned())
    }

    #[test]
    fn a_load_that_the_agent_lacks_is_named_with_the_nearest_that_it_has() {
        let known = "there are idle, fork, bpf, net, keys, membarrier, perf, module, tracepoint, kprobe, vmstat, caches, \
                     compact, hugetlb, ignore-ce, hotplug, trace-pipe";
        assert_eq!(
            said(&["load", "idle", "frok"]),
            format!("load frok: there is no such load; did you mean fork? {known}")
        );
        assert_eq!(
            said(&["load", "--rounds", "3", "nonesuch"]),
            format!("load nonesuch: there is no such load; {known}")
        );
    }

    #[test]
    fn other_commands_and_loads_that_there_are_pass() {
        for command in [
            &["load"][..],
            &["load", "fork", "bpf"],
            &["load", "--rounds", "3", "net"],
            &["load", "--rounds"],
            &["bench", "frok"],
            &[],
        ] {
            let expected = if command == ["load", "--rounds"] {
                // The agent wants a number there; the rig knows only that it is no load.
                "load --rounds: "
            } else {
                "fine"
            };
            assert!(said(command).starts_with(expected), "{command:?}");
        }
    }
}
