//! Compares where the kernel says that an IPI was sent from with the sender's stack as the rig took it.
//!
//! The kernel records `_RET_IP_` of the function that sends (kernel/smp.c, include/linux/smp.h): where
//! that function returns to. So the very same address has to be on the stack.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

use ipirig_evidence::stacks::Caller;

/// How many callsites were looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Callsites {
    /// IPIs in both records of which the guest has a callsite and the rig a stack.
    pub compared: u64,
    /// Those of them whose callsite is on the stack.
    pub on_stack: u64,
}

impl fmt::Display for Callsites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared, on_stack } = self;
        write!(
            f,
            "the kernel's callsite is on the sender's stack for {on_stack} of {compared} IPIs in both"
        )
    }
}

/// `function+0x20/0x40`, as the kernel prints an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Callsite {
    pub(crate) function: String,
    /// Bytes from the function's begin.
    pub(crate) offset: u64,
}

/// What came of one comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    OnStack,
    /// The stack could not be followed to its end, and so far it is not there.
    Cut(String),
    Elsewhere(String),
}

impl Callsite {
    /// `None`: not a symbol with an offset, as from a kernel without kallsyms.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (function, rest) = text.split_once("+0x")?;
        let (offset, _) = rest.split_once('/')?;
        Some(Self {
            function: function.to_owned(),
            offset: u64::from_str_radix(offset, 16).ok()?,
        })
    }

    pub(crate) fn look_for(&self, caller: &Caller) -> Found {
        let mut calls = caller.calls.iter();
        if calls.any(|(function, offset)| *function == self.function && *offset == self.offset) {
            return Found::OnStack;
        }
        let stack: Vec<String> = caller
            .calls
            .iter()
            .map(|(function, offset)| format!("{function}+{offset:#x}"))
            .collect();
        let words = format!(
            "the kernel says {}+{:#x}, the stack {}",
            self.function,
            self.offset,
            stack.join(" <- ")
        );
        if caller.whole {
            Found::Elsewhere(words)
        } else {
            Found::Cut(words)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(whole: bool) -> Caller {
        let call = |name: &str, offset| (name.to_owned(), offset);
        Caller {
            calls: vec![call("send", 0x10), call("on_each_cpu_cond_mask", 0x20)],
            whole,
        }
    }

    #[test]
    fn a_callsite_is_a_symbol_with_an_offset() {
        let callsite = |function: &str, offset| {
            let function = function.to_owned();
            Some(Callsite { function, offset })
        };
        for (text, expected) in [
            (
                "on_each_cpu_cond_mask+0x20/0x40",
                callsite("on_each_cpu_cond_mask", 0x20),
            ),
            (
                "f.constprop.0+0xffe/0x1000",
                callsite("f.constprop.0", 0xffe),
            ),
            ("0xffffffff81000000", None),
            ("f+0x20", None),
            ("f+0xxyz/0x1", None),
            ("", None),
        ] {
            assert_eq!(Callsite::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn only_the_very_address_is_on_the_stack() {
        let found = |text: &str, whole| Callsite::parse(text).unwrap().look_for(&caller(whole));
        assert_eq!(
            found("on_each_cpu_cond_mask+0x20/0x40", true),
            Found::OnStack
        );
        let words = |says: &str| {
            format!("the kernel says {says}, the stack send+0x10 <- on_each_cpu_cond_mask+0x20")
        };
        assert_eq!(
            found("on_each_cpu_cond_mask+0x21/0x40", true),
            Found::Elsewhere(words("on_each_cpu_cond_mask+0x21"))
        );
        assert_eq!(
            found("other+0x20/0x40", false),
            Found::Cut(words("other+0x20"))
        );
    }
}
