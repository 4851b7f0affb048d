//! What of guest debugging works on a host, and what does not.

use schemars::JsonSchema;
use serde::Serialize;

/// What `KVM_SET_GUEST_DEBUG` (KVM API 4.87) does for guests here, as probe guests saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct GuestDebug {
    /// Instruction breakpoints in the debug registers.
    pub breakpoints: Levels,
    /// One instruction at a time.
    pub single_steps: Levels,
}

/// Where something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Levels {
    /// In CPL 0.
    pub kernel: bool,
    /// In CPL 0 just entered from CPL 3, by an exception and, where it enters CPL 0, by SYSCALL.
    pub entry: bool,
}

impl GuestDebug {
    /// All of it works.
    pub const ALL: Self = {
        let both = Levels {
            kernel: true,
            entry: true,
        };
        Self {
            breakpoints: both,
            single_steps: both,
        }
    };

    /// What is missing for stopping a guest's kernel and for recording its entries, in words that follow
    /// "this host's KVM": `None` if nothing is.
    #[must_use]
    pub fn lack(&self) -> Option<String> {
        let Self {
            breakpoints,
            single_steps,
        } = self;
        let missing: Vec<String> = [("breakpoints", breakpoints), ("single-steps", single_steps)]
            .into_iter()
            .filter_map(|(what, works)| {
                let places = match (works.kernel, works.entry) {
                    (true, true) => return None,
                    (true, false) => "on entry to CPL 0",
                    (false, true) => "in CPL 0",
                    (false, false) => "in CPL 0 or on entry to it",
                };
                Some(format!("no working {what} {places}"))
            })
            .collect();
        (!missing.is_empty()).then(|| format!("gives guests {}", missing.join(" and ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_work_is_named_and_where() {
        let levels = |kernel, entry| Levels { kernel, entry };
        let lack = |breakpoints, single_steps| {
            let debug = GuestDebug {
                breakpoints,
                single_steps,
            };
            debug.lack()
        };
        assert_eq!(GuestDebug::ALL.lack(), None);
        assert_eq!(
            lack(levels(false, false), levels(true, true)).as_deref(),
            Some("gives guests no working breakpoints in CPL 0 or on entry to it")
        );
        assert_eq!(
            lack(levels(true, false), levels(false, true)).as_deref(),
            Some(
                "gives guests no working breakpoints on entry to CPL 0 and no working single-steps \
                 in CPL 0"
            )
        );
    }
}
