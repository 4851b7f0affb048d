//! Ways into the kernel that the machine says not to try, on the kernel's command line: its host's KVM gets them
//! wrong, and trying would end the guest or the task.

use std::fs;

use ipirig_abi::{NOT_PRODUCED, Order};

/// The names after [`NOT_PRODUCED`].
#[derive(Debug, Default)]
pub(crate) struct NotProduced(Vec<String>);

impl NotProduced {
    pub(crate) fn read() -> Self {
        Self::of(&fs::read_to_string("/proc/cmdline").unwrap_or_default())
    }

    fn of(cmdline: &str) -> Self {
        let words = cmdline.split_whitespace();
        let lists = words.filter_map(|word| word.strip_prefix(NOT_PRODUCED));
        Self(
            lists
                .flat_map(|list| list.split(','))
                .map(str::to_owned)
                .collect(),
        )
    }

    /// Whether `order` is one of them; only those that some host gets wrong have a name.
    pub(crate) fn has(&self, order: Order) -> bool {
        let name = match order {
            Order::CompatSyscall => "compat-syscall",
            Order::AlignmentCheck => "alignment-check",
            Order::BadIret => "bad-iret",
            Order::Espfix => "espfix",
            Order::DoubleFault => "double-fault",
            _ => return false,
        };
        self.0.iter().any(|word| word == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_left_out_by_the_command_line_and_no_others() {
        let told = NotProduced::of("quiet ipirig.not_produced=compat-syscall,nonesuch panic=-1\n");
        let left_out: Vec<Order> = Order::ALL
            .iter()
            .copied()
            .filter(|order| told.has(*order))
            .collect();
        assert_eq!(left_out, [Order::CompatSyscall]);
        let told = NotProduced::of("quiet panic=-1\n");
        assert!(Order::ALL.iter().copied().all(|order| !told.has(order)));
    }
}
