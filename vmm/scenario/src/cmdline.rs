//! The kernel command line of a run: what isolates the isolated vCPUs and keeps the guest quiet.
//! What the host's quirks need is added by `ipirig-machine`.

use ipirig_abi::Role;

use crate::cpu_list::CpuList;
use crate::parameters::{PARAMETERS, Value, name};
use crate::plan::GuestPlan;

/// The rig's part of the kernel command line for `plan`, with the user's part last so that it wins.
#[must_use]
pub fn command_line(plan: &GuestPlan) -> String {
    let isolated = plan.cpus(Role::Isolated);
    let others: Vec<usize> = (0..plan.roles.len())
        .filter(|cpu| !isolated.contains(cpu))
        .collect();
    let at_boot = plan.isolated_at_boot();
    let tasks = plan.isolated_in.has_task();
    let mut words: Vec<String> = PARAMETERS
        .iter()
        .filter(|(_, value)| match value {
            Value::NoTasks => !tasks,
            Value::Quiets(_) => !plan.as_is,
            Value::AsIs => plan.as_is,
            _ => true,
        })
        .filter(|(word, _)| !plan.without.iter().any(|out| out == name(word)))
        .map(|&(name, value)| match value {
            Value::Plain | Value::Quiets(_) => name.to_owned(),
            Value::NoTasks | Value::AsIs => format!("{name}=none"),
            Value::Isolated(prefix) => format!("{name}{prefix}{}", CpuList(&isolated)),
            Value::Flagged(_, rest) if !at_boot => format!("{name}{rest}{}", CpuList(&isolated)),
            Value::Flagged(first, rest) => format!("{name}{first}{rest}{}", CpuList(&isolated)),
            Value::Others => format!("{name}{}", CpuList(&others)),
            Value::Deferral => format!("{name}{}", if plan.deferral { "on" } else { "off" }),
        })
        .collect();
    words.extend(plan.append.clone());
    words.join(" ")
}

/// The words of the rig's own on that line that switch periodic work of the kernel off, and what would come without.
#[must_use]
pub fn quieting(plan: &GuestPlan) -> Vec<(&'static str, &'static str)> {
    let all = PARAMETERS.iter().filter(|_| !plan.as_is);
    all.filter(|(word, _)| !plan.without.iter().any(|out| out == name(word)))
        .filter_map(|&(word, value)| match value {
            Value::Quiets(would) => Some((word, would)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Scenario;
    use crate::plan::{Options, Plan};
    use crate::scenario::{Mode, Partition};

    fn line(options: Options) -> String {
        let scenario = Scenario::find("static-key-flip").unwrap();
        command_line(&Plan::new(scenario, options).unwrap())
    }

    #[test]
    fn the_default_line_isolates_the_last_of_three() {
        assert_eq!(
            line(Options::default()),
            "console=ttyS0 quiet panic=-1 reboot=k oops=panic tsc=reliable \
             nohz_full=2 isolcpus=domain,managed_irq,2 irqaffinity=0-1 pti=on ipi_deferral=on nowatchdog \
             mce=ignore_ce"
        );
    }

    #[test]
    fn cpus_that_are_to_be_unused_get_no_tasks() {
        let mut scenario = Scenario::find("static-key-flip").unwrap();
        for (mode, flags) in [
            (Mode::Unused, "isolcpus=domain,managed_irq,2"),
            (Mode::Replugged, "isolcpus=managed_irq,2"),
        ] {
            scenario.vcpus.isolated_in = mode;
            let line = command_line(&Plan::new(scenario.clone(), Options::default()).unwrap());
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words.contains(&"ipirig_tasks=none"), "{line}");
            assert!(words.contains(&flags), "{line}");
        }
    }

    #[test]
    fn cpus_that_a_cpuset_isolates_are_in_scheduling_domains_at_boot() {
        let mut scenario = Scenario::find("static-key-flip").unwrap();
        scenario.vcpus.isolated_by = Partition::Cpuset;
        let line = command_line(&Plan::new(scenario, Options::default()).unwrap());
        let isolating: Vec<&str> = line.split(' ').filter(|word| word.contains('2')).collect();
        assert_eq!(isolating, ["nohz_full=2", "isolcpus=managed_irq,2"]);
    }

    #[test]
    fn a_kernel_that_is_left_as_it_is_has_its_periodic_work() {
        let scenario = Scenario::find("static-key-flip").unwrap();
        let quiet = |as_is, without: &[&str]| {
            let options = Options {
                as_is,
                without: without.iter().map(|&word| word.to_owned()).collect(),
                ..Options::default()
            };
            let plan = Plan::new(scenario.clone(), options).unwrap();
            let words = quieting(&plan).into_iter().map(|(word, _)| word);
            (words.collect::<Vec<_>>(), command_line(&plan))
        };
        let (words, line) = quiet(true, &[]);
        assert_eq!(words, [""; 0]);
        assert_eq!(
            line,
            "console=ttyS0 quiet panic=-1 reboot=k oops=panic nohz_full=2 isolcpus=domain,managed_irq,2 \
             irqaffinity=0-1 pti=on ipi_deferral=on ipirig_settings=none"
        );
        assert_eq!(quiet(false, &["mce"]).0, ["tsc=reliable", "nowatchdog"]);
    }

    #[test]
    fn the_rigs_words_can_be_left_out_by_name_or_as_they_stand() {
        let line = line(Options {
            without: vec!["mce".into(), "pti=on".into(), "nohz_full".into()],
            ..Options::default()
        });
        assert_eq!(
            line,
            "console=ttyS0 quiet panic=-1 reboot=k oops=panic tsc=reliable \
             isolcpus=domain,managed_irq,2 irqaffinity=0-1 ipi_deferral=on nowatchdog"
        );
    }

    #[test]
    fn a_word_that_is_not_the_rigs_is_refused_with_those_that_are() {
        let scenario = Scenario::find("static-key-flip").unwrap();
        let options = Options {
            without: vec!["isolcpu".into()],
            ..Options::default()
        };
        assert_eq!(
            Plan::new(scenario, options).unwrap_err().to_string(),
            "--without isolcpu: the rig has no such word; its own are console, quiet, panic, reboot, oops, tsc, \
             nohz_full, isolcpus, irqaffinity, pti, ipi_deferral, nowatchdog, mce"
        );
    }

    #[test]
    fn the_users_part_comes_last_and_deferral_obeys() {
        let line = line(Options {
            vcpus: Some(2),
            no_deferral: true,
            append: Some("quiet loglevel=7".into()),
            ..Options::default()
        });
        assert!(line.contains(" nohz_full=1 "), "{line}");
        assert!(line.contains(" irqaffinity=0 "), "{line}");
        assert!(line.contains(" ipi_deferral=off "), "{line}");
        assert!(line.ends_with(" quiet loglevel=7"), "{line}");
    }
}
