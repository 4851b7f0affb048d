//! From the user's options to a guest (roles, times, command line), and with a scenario to what one run does.

use std::ops::{Deref, DerefMut};
use std::time::Duration;

use ipirig_abi::{Flavour, MAX_CPUS, Role};

use crate::parameters::{self, NotOurs};
use crate::{EntryKind, Mode, Partition, Scenario, Vcpus};

/// MiB of guest memory that the machine can lay out.
const MEMORY_MIB: std::ops::RangeInclusive<u64> = 64..=3072;
/// MiB of guest memory for the reference kernel. More costs boot time where guest kernels are
/// emulated, less saves none (guest/kernel/config/README.md).
pub const MEMORY_REFERENCE_MIB: u64 = 128;
/// MiB of guest memory for the reference kernel with tracing, which records each function that it can
/// trace.
pub const MEMORY_TRACING_MIB: u64 = 256;
/// MiB of guest memory for a kernel of unknown size, which may have to unpack itself.
pub const MEMORY_OWN_MIB: u64 = 512;
/// Longest deadline a user may ask for: a day.
const TIMEOUT_MAX_S: u64 = 86_400;

/// What a user may change about a scenario.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Number of vCPUs in all; `None`: as the scenario says.
    pub vcpus: Option<usize>,
    /// Whether the kernel is told to defer.
    pub no_deferral: bool,
    /// Host core of each vCPU.
    pub pin: Option<Vec<usize>>,
    /// Guest memory in MiB; `None`: [`MEMORY_REFERENCE_MIB`] or [`MEMORY_OWN_MIB`].
    pub memory_mib: Option<u64>,
    /// The flavour of the reference kernel; `None`: what the scenario asks for.
    pub kernel: Option<Flavour>,
    /// The kernel is the user's own, not the reference kernel.
    pub own_kernel: bool,
    /// The build id that the kernel must have, in hexadecimal digits: that of the vmlinux that stands in for its
    /// file.
    pub build_id: Option<String>,
    /// More kernel command line.
    pub append: Option<String>,
    /// Words of the rig's own that the command line is to go without, whole or up to their `=`.
    pub without: Vec<String>,
    /// The kernel's periodic work is left on.
    pub as_is: bool,
    /// Deadline of each phase in seconds.
    pub timeout_s: Option<u64>,
    /// Do not take the stacks of who sends IPIs.
    pub no_stacks: bool,
    /// The guest's kernel records its IPIs too, and the two records are compared.
    pub cross_check: bool,
    /// The verdict is to be on isolation alone.
    pub isolation_only: bool,
}

/// A plan of what a guest is taken through.
pub trait Planned {
    /// The guest.
    fn guest(&self) -> &GuestPlan;
    /// The entry kind that ends each window, in order. Those beyond the last end without one.
    fn entries(&self) -> &[EntryKind];
}

/// What one run of a scenario does. It is a plan of its guest as well, and has its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The scenario.
    pub scenario: Scenario,
    /// The guest.
    pub guest: GuestPlan,
    /// The verdict is on isolation alone: whether deferred work was done need not be known. Never where
    /// IPIs must be delivered, so that there is none.
    pub isolation_only: bool,
}

impl Deref for Plan {
    type Target = GuestPlan;

    fn deref(&self) -> &GuestPlan {
        &self.guest
    }
}

impl DerefMut for Plan {
    fn deref_mut(&mut self) -> &mut GuestPlan {
        &mut self.guest
    }
}

impl Planned for Plan {
    fn guest(&self) -> &GuestPlan {
        &self.guest
    }

    fn entries(&self) -> &[EntryKind] {
        &self.scenario.entries
    }
}

/// The guest of a run, whatever is done with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPlan {
    /// The flavour of the reference kernel.
    pub kernel: Flavour,
    /// Where the isolated vCPUs are while the window is open.
    pub isolated_in: Mode,
    /// What keeps other tasks off them.
    pub isolated_by: Partition,
    /// Role of each vCPU, by number.
    pub roles: Vec<Role>,
    /// Whether the kernel is told to defer.
    pub deferral: bool,
    /// Host core of each vCPU, if the user chose.
    pub pin: Option<Vec<usize>>,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// More kernel command line, from the user.
    pub append: Option<String>,
    /// The build id that the kernel must have, in hexadecimal digits, if it has one.
    pub build_id: Option<String>,
    /// Words of the rig's own that the command line goes without, up to their `=`.
    pub without: Vec<String>,
    /// The kernel's periodic work, which would interrupt isolated vCPUs, is left on.
    pub as_is: bool,
    /// Deadlines.
    pub timeouts: Timeouts,
    /// Whether the stack of each sender of an IPI is taken.
    pub stacks: bool,
    /// The guest's kernel records its IPIs too, and the two records are compared.
    pub cross_check: bool,
}

/// How long each phase may take before the rig gives up and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the first instruction to the agent's readiness.
    pub boot: Duration,
    /// What the storm needs done once before, which may take a slow kernel long.
    pub prepare: Duration,
    /// Any other phase.
    pub phase: Duration,
    /// How long no isolated vCPU may be interrupted before the window opens.
    pub quiet: Duration,
    /// How much longer where the kernel refused to switch off what comes now and then.
    pub refused: Duration,
    /// How long a timer that would go off in the window is waited for.
    pub timer: Duration,
    /// Longest sleep between two looks at the mailbox.
    pub poll: Duration,
}

impl Default for Timeouts {
    /// Generous: a software KVM on a busy machine runs kernel code 500 times slower than hardware.
    fn default() -> Self {
        Self {
            boot: Duration::from_secs(120),
            prepare: Duration::from_secs(120),
            phase: Duration::from_secs(60),
            quiet: Duration::from_millis(300),
            // The period of a fair server (dl_server_start of kernel/sched/deadline.c).
            refused: Duration::from_secs(1),
            timer: Duration::from_secs(5),
            poll: Duration::from_millis(10),
        }
    }
}

/// Why a run cannot be planned. All of them are the user's to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The scenario has no place for so few vCPUs.
    #[error("--vcpus {asked}: {name} needs at least {least}, one control and {isolated} isolated")]
    TooFew {
        /// The scenario.
        name: String,
        /// What was asked for.
        asked: usize,
        /// The least that works.
        least: usize,
        /// Isolated vCPUs of the scenario.
        isolated: usize,
    },
    /// The mailbox has no place for so many.
    #[error("--vcpus {asked}: at most {MAX_CPUS}")]
    TooMany {
        /// What was asked for.
        asked: usize,
    },
    /// `--pin` names more or fewer cores than there are vCPUs.
    #[error("--pin names {cores} cores for {vcpus} vCPUs: give one core for each vCPU")]
    Pin {
        /// Cores named.
        cores: usize,
        /// vCPUs planned.
        vcpus: usize,
    },
    /// Guest memory out of range.
    #[error("--memory {asked}: {} to {} MiB", MEMORY_MIB.start(), MEMORY_MIB.end())]
    Memory {
        /// What was asked for, in MiB.
        asked: u64,
    },
    /// A deadline out of range.
    #[error("--timeout {asked}: 1 to {TIMEOUT_MAX_S} seconds")]
    Timeout {
        /// What was asked for, in seconds.
        asked: u64,
    },
    /// The rig puts no such word on the command line.
    #[error("--without {word}: the rig has no such word; its own are {known}")]
    Without {
        /// The word.
        word: String,
        /// Those that there are.
        known: String,
    },
    /// The kernel's command line is one line of printable ASCII.
    #[error("--append: {found:?} has no place in a kernel command line: printable ASCII only")]
    Append {
        /// The offending character.
        found: char,
    },
}

impl Plan {
    /// Fits what the user asked for to the scenario.
    ///
    /// # Errors
    ///
    /// See [`PlanError`].
    pub fn new(mut scenario: Scenario, options: Options) -> Result<Self, PlanError> {
        let isolation_only = options.isolation_only && !scenario.expect.delivered();
        let guest = GuestPlan::new(&scenario.name, scenario.kernel, scenario.vcpus, options)?;
        scenario.kernel = guest.kernel;
        Ok(Self {
            scenario,
            guest,
            isolation_only,
        })
    }
}

impl GuestPlan {
    /// Fits what the user asked for to what `name` wants of a guest: a kernel and vCPUs.
    ///
    /// # Errors
    ///
    /// See [`PlanError`].
    pub fn new(
        name: &str,
        mut kernel: Flavour,
        vcpus: Vcpus,
        options: Options,
    ) -> Result<Self, PlanError> {
        if let Some(asked) = options.kernel {
            kernel = asked;
        }
        // Every other one has what it reads.
        if options.cross_check && kernel == Flavour::Fast {
            kernel = Flavour::Tracing;
        }
        let roles = roles(name, vcpus, options.vcpus)?;
        if let Some(pin) = &options.pin
            && pin.len() != roles.len()
        {
            return Err(PlanError::Pin {
                cores: pin.len(),
                vcpus: roles.len(),
            });
        }
        let memory_mib = options.memory_mib.unwrap_or(match kernel {
            _ if options.own_kernel => MEMORY_OWN_MIB,
            Flavour::Fast => MEMORY_REFERENCE_MIB,
            Flavour::Tracing | Flavour::Rt => MEMORY_TRACING_MIB,
        });
        check_memory(memory_mib)?;
        if let Some(found) = options
            .append
            .iter()
            .flat_map(|append| append.chars())
            .find(|c| !c.is_ascii_graphic() && *c != ' ')
        {
            return Err(PlanError::Append { found });
        }
        let without = parameters::left_out(&options.without)
            .map_err(|NotOurs { word, known }| PlanError::Without { word, known })?;
        let mut timeouts = Timeouts::default();
        if let Some(asked) = options.timeout_s {
            if !(1..=TIMEOUT_MAX_S).contains(&asked) {
                return Err(PlanError::Timeout { asked });
            }
            timeouts.boot = Duration::from_secs(asked);
            timeouts.prepare = timeouts.boot;
            timeouts.phase = timeouts.boot;
        }
        Ok(Self {
            kernel,
            isolated_in: vcpus.isolated_in,
            isolated_by: vcpus.isolated_by,
            roles,
            deferral: !options.no_deferral,
            pin: options.pin,
            memory_mib,
            append: options.append,
            build_id: options.build_id,
            without,
            as_is: options.as_is,
            timeouts,
            stacks: !options.no_stacks,
            cross_check: options.cross_check,
        })
    }

    /// Whether there can be as much memory: for who changes it afterwards.
    ///
    /// # Errors
    ///
    /// [`PlanError::Memory`].
    pub fn check_memory(&self) -> Result<(), PlanError> {
        check_memory(self.memory_mib)
    }

    /// Whether `isolcpus=domain` keeps other tasks off isolated vCPUs.
    #[must_use]
    pub fn isolated_at_boot(&self) -> bool {
        self.isolated_in != Mode::Replugged && self.isolated_by == Partition::CommandLine
    }

    /// Numbers of the vCPUs with `role`, ascending.
    #[must_use]
    pub fn cpus(&self, role: Role) -> Vec<usize> {
        let with_role = self.roles.iter().enumerate().filter(|(_, r)| **r == role);
        with_role.map(|(cpu, _)| cpu).collect()
    }
}

fn check_memory(memory_mib: u64) -> Result<(), PlanError> {
    if MEMORY_MIB.contains(&memory_mib) {
        return Ok(());
    }
    Err(PlanError::Memory { asked: memory_mib })
}

/// The control vCPU first (the boot CPU can never be isolated), then housekeeping, then isolated.
fn roles(name: &str, wanted: Vcpus, asked: Option<usize>) -> Result<Vec<Role>, PlanError> {
    let by_scenario = 1 + wanted.housekeeping + wanted.isolated;
    let total = asked.unwrap_or(by_scenario);
    let least = 1 + wanted.isolated;
    if total > MAX_CPUS {
        return Err(PlanError::TooMany { asked: total });
    }
    if total < least {
        return Err(PlanError::TooFew {
            name: name.to_owned(),
            asked: total,
            least,
            isolated: wanted.isolated,
        });
    }
    // Fewer than the scenario's: housekeeping vCPUs go first. More: they get the `further` role.
    let spare = total - least;
    let isolated = match wanted.further {
        Role::Isolated => wanted.isolated + spare.saturating_sub(wanted.housekeeping),
        _ => wanted.isolated,
    };
    let mut roles = vec![Role::Control];
    roles.resize(total - isolated, Role::Housekeeping);
    roles.resize(total, Role::Isolated);
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Control as C, Housekeeping as H, Isolated as I};

    fn scenario(further: Role) -> Scenario {
        let mut scenario = Scenario::find("static-key-flip").unwrap();
        scenario.vcpus.further = further;
        scenario
    }

    fn plan(options: Options) -> Result<Plan, PlanError> {
        Plan::new(scenario(H), options)
    }

    #[test]
    fn vcpus_get_their_roles_by_number() {
        let cases = [
            (None, H, vec![C, H, I]),
            (Some(2), H, vec![C, I]),
            (Some(3), H, vec![C, H, I]),
            (Some(5), H, vec![C, H, H, H, I]),
            (Some(2), I, vec![C, I]),
            (Some(3), I, vec![C, H, I]),
            (Some(5), I, vec![C, H, I, I, I]),
        ];
        for (vcpus, further, expected) in cases {
            let plan = Plan::new(
                scenario(further),
                Options {
                    vcpus,
                    ..Options::default()
                },
            );
            assert_eq!(plan.unwrap().roles, expected, "{vcpus:?} {further:?}");
        }
    }

    #[test]
    fn the_most_vcpus_fit() {
        let plan = plan(Options {
            vcpus: Some(MAX_CPUS),
            ..Options::default()
        })
        .unwrap();
        assert_eq!(plan.roles.len(), MAX_CPUS);
        assert_eq!(plan.cpus(I), [MAX_CPUS - 1]);
    }

    #[test]
    fn each_impossible_wish_is_refused() {
        let cases = [
            (
                Options {
                    vcpus: Some(1),
                    ..Options::default()
                },
                "--vcpus 1: static-key-flip needs at least 2, one control and 1 isolated",
            ),
            (
                Options {
                    vcpus: Some(0),
                    ..Options::default()
                },
                "--vcpus 0: static-key-flip needs",
            ),
            (
                Options {
                    vcpus: Some(65),
                    ..Options::default()
                },
                "--vcpus 65: at most 64",
            ),
            (
                Options {
                    pin: Some(vec![0, 1]),
                    ..Options::default()
                },
                "--pin names 2 cores for 3 vCPUs: give one core for each vCPU",
            ),
            (
                Options {
                    memory_mib: Some(63),
                    ..Options::default()
                },
                "--memory 63: 64 to 3072 MiB",
            ),
            (
                Options {
                    timeout_s: Some(0),
                    ..Options::default()
                },
                "--timeout 0: 1 to 86400 sec",
            ),
            (
                Options {
                    append: Some("a\nb".into()),
                    ..Options::default()
                },
                "--append: '\\n' has no place in a kernel command line: printable ASCII only",
            ),
        ];
        for (options, message) in cases {
            let error = plan(options).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn a_kernel_of_unknown_size_gets_more_memory_and_the_user_has_the_last_word() {
        let memory = |own_kernel, memory_mib| {
            plan(Options {
                own_kernel,
                memory_mib,
                ..Options::default()
            })
            .unwrap()
            .memory_mib
        };
        assert_eq!(
            [
                memory(false, None),
                memory(true, None),
                memory(true, Some(64))
            ],
            [128, 512, 64]
        );
    }

    #[test]
    fn a_timeout_replaces_every_deadline() {
        let plan = plan(Options {
            timeout_s: Some(7),
            ..Options::default()
        })
        .unwrap();
        let seven = Duration::from_secs(7);
        let timeouts = plan.timeouts;
        assert_eq!(
            [timeouts.boot, timeouts.prepare, timeouts.phase],
            [seven; 3]
        );
    }

    #[test]
    fn isolation_alone_is_no_wish_where_ipis_must_come() {
        let only = |name: &str| {
            let options = Options {
                isolation_only: true,
                ..Options::default()
            };
            let plan = Plan::new(Scenario::find(name).unwrap(), options);
            plan.unwrap().isolation_only
        };
        assert_eq!(
            ["static-key-flip", "bpf-jit", "noinstr-key-flip"].map(only),
            [true, true, false]
        );
    }
}
