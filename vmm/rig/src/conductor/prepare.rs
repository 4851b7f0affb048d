//! What a storm needs done once, before anything is looked at.

use std::sync::Arc;

use ipirig_abi::{Command, Role, TRACED_FUNCTION, Target};
use ipirig_entry::KernelLayout;
use ipirig_image::{Site, SiteKind};
use ipirig_scenario::{Mode, Part, Partition, Vcpus};

use super::{Conductor, Ended};

/// Where things are in the kernel that runs, or why that is not known.
type Layout = Result<Arc<KernelLayout>, String>;

/// What a kernel says of a partition in which CPUs are isolated (kernel/cgroup/cpuset.c, cpuset_partition_show).
const ISOLATED: &str = "isolated";

/// Bytes of the SYSCALL entry that are searched for a NOP: less than to the switch of stacks.
const ENTRY_CODE: usize = 64;

/// Bytes from a function's first to its call of ftrace: at most an ENDBR64 (kernel/trace/ftrace.c).
const BEFORE_FENTRY: u64 = 4;

impl Conductor<'_> {
    /// Finds what the storm's kind must be told of this kernel, and has the guest make ready.
    pub(super) fn prepare(&mut self, layout: &Layout) -> Result<(), Ended> {
        let traced = || layout.as_ref().ok().and_then(|it| traced_function(it));
        for part in self.parts() {
            let target = match part.kind.properties().target {
                None => continue,
                Some(Target::EntryNop) => self.entry_text_poke(layout)?,
                Some(Target::TracedInstruction) => traced().map_or(0, |traced| traced.after_call),
                Some(Target::TracedNumber) => traced().map_or(0, |traced| traced.number),
            };
            self.target = target;
        }
        let vcpus = self.scenario.map(|scenario| scenario.vcpus);
        if let Some(Vcpus {
            address_spaces: spaces @ 1..,
            ..
        }) = vcpus
        {
            for cpu in self.isolated.clone() {
                self.command(Command::AddressSpaces, [cpu as u64, spaces, 0, 0])?;
            }
        }
        if vcpus.is_some_and(|vcpus| vcpus.housekeeping_in_user) {
            for cpu in self.plan.cpus(Role::Housekeeping) {
                self.command(Command::Occupy, [cpu as u64, 0, 0, 0])?;
            }
        }
        if self.plan.isolated_by == Partition::Cpuset {
            let cpus = self
                .isolated
                .iter()
                .fold(0, |cpus, cpu| cpus | 1_u64 << cpu);
            self.command(Command::Partition, [cpus, 0, 0, 0])?;
            let says = self.text();
            if says != ISOLATED {
                let what = format!(
                    "the kernel says `{says}` of the partition by a cpuset, and not `{ISOLATED}`"
                );
                return Err(Ended::NotIsolated { what });
            }
        }
        if self.plan.isolated_in == Mode::Replugged {
            for cpu in self.isolated.clone() {
                self.command(Command::Replug, [cpu as u64, 0, 0, 0])?;
            }
        }
        for part in self.parts() {
            self.command(Command::Prepare, self.args(&part))?;
        }
        Ok(())
    }

    /// The arguments of the command that a part consists of.
    pub(super) fn args(&self, part: &Part) -> [u64; 4] {
        let target = part.kind.properties().target.map_or(0, |_| self.target);
        part.kind.args(part.operations, part.size, target)
    }

    /// Finds a place in entry text that may be poked while nobody executes it, and tells the guest
    /// where its kernel has what it does not export.
    fn entry_text_poke(&mut self, layout: &Layout) -> Result<u64, Ended> {
        let lacking = |what: String| Err(Ended::Lacking { what });
        let layout = match layout {
            Ok(layout) => layout,
            Err(why) => return lacking(format!("entry text cannot be poked: {why}")),
        };
        let symbol = |name: &str| layout.symbols().address(name);
        let poke = symbol("text_poke_bp").or_else(|| symbol("smp_text_poke_single"));
        let (Some(poke), Some(mutex)) = (poke, symbol("text_mutex")) else {
            return lacking("the kernel has no text_poke_bp or no text_mutex".to_owned());
        };
        let cpu = self.isolated.first().copied().unwrap_or_default();
        let entry = self.machine(|guest| guest.lstar(cpu))?;
        let code = self.machine(|guest| guest.read(cpu, entry, ENTRY_CODE))?;
        let target = code.and_then(|code| ipirig_instruction::first_nop(entry, &code));
        let Some(target) = target else {
            return lacking("the kernel's SYSCALL entry has no NOP that could be poked".to_owned());
        };
        self.command(Command::Symbols, [poke, mutex, 0, 0])?;
        Ok(target)
    }
}

/// The function that storms trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Traced {
    /// Its number among all that can be traced, counted from 1 by rising address
    /// (`ftrace_process_locs` sorts them so).
    number: u64,
    /// Bytes from its begin to what follows its call of ftrace.
    after_call: u64,
}

/// `None` if the kernel cannot trace it.
fn traced_function(layout: &KernelLayout) -> Option<Traced> {
    let begin = layout.symbols().address(TRACED_FUNCTION)?;
    let (before, here) = (layout.slide()..begin, begin..begin + BEFORE_FENTRY + 1);
    let is_call = |site: &&Site| site.kind == SiteKind::Ftrace;
    let call = layout.sites_at(&here).find(is_call)?;
    Some(Traced {
        number: layout.sites_at(&before).filter(is_call).count() as u64 + 1,
        after_call: call.address + u64::from(call.len) + layout.slide() - begin,
    })
}
