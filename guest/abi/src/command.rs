//! The codes that travel in the mailbox's words.

/// A word that is none of the codes expected in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCode(pub u32);

macro_rules! codes {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $value:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum $name { $($(#[$vmeta])* $variant = $value,)* }

        impl TryFrom<u32> for $name {
            type Error = UnknownCode;
            fn try_from(code: u32) -> Result<Self, UnknownCode> {
                match code {
                    $($value => Ok(Self::$variant),)*
                    other => Err(UnknownCode(other)),
                }
            }
        }

        impl From<$name> for u32 {
            fn from(code: $name) -> u32 {
                code as u32
            }
        }
    };
}

codes! {
    /// What a vCPU is for.
    Role {
        /// No such vCPU.
        Absent = 0,
        /// Runs the agent's control task and the storms.
        Control = 1,
        /// Idles; takes part in broadcasts, and so bears witness to them.
        Housekeeping = 2,
        /// nohz_full; runs one task that stays in user space.
        Isolated = 3,
    }
}

codes! {
    /// How the agent is doing.
    AgentState {
        /// The guest has not reached it.
        Absent = 0,
        /// It runs and sets up.
        Starting = 1,
        /// Isolated tasks spin; commands are obeyed.
        Ready = 2,
        /// It cannot go on; the text says what failed.
        Failed = 3,
    }
}

codes! {
    /// How an isolated task is doing.
    TaskState {
        /// Not started.
        Absent = 0,
        /// Started and not yet pinned.
        Starting = 1,
        /// In its user-space loop.
        Spinning = 2,
        /// It died or could not be pinned.
        Failed = 3,
    }
}

codes! {
    /// What the rig can ask of the control task.
    Command {
        /// Flip the module's private static key `args[0]` times (at least once).
        /// `results[0]`: flips done. `results[1]`: the key's value afterwards, 0 or 1.
        Flip = 1,
        /// `args[0]` times: vmalloc `args[1]` pages (1 to 4096), touch them, vfree, and purge the
        /// lazily freed areas. Then move the probe alias (a vmap of one page) to another page at
        /// the same address. `results[0]`: rounds done. `results[1]`: the word that a read
        /// through the alias must now give.
        Vunmap = 2,
        /// Text: the contents of the kernel's deferral counters, empty if it has none.
        ReadCounters = 3,
        /// Text: `/proc/interrupts`.
        ReadInterrupts = 4,
        /// Text: `uname -srvm`.
        ReadVersion = 5,
        /// Stop the guest.
        PowerOff = 6,
    }
}

codes! {
    /// How a command ended.
    Status {
        /// Done.
        Ok = 0,
        /// Not done; `errno` and the text say why.
        Failed = 1,
        /// Needs `ipirig.ko`, which this guest lacks.
        NoModule = 2,
        /// The agent does not know this command.
        Unknown = 3,
    }
}

codes! {
    /// What the rig can ask of an isolated task: leave the loop, enter the kernel, come back.
    Order {
        /// One system call into the module's probe: `branch` and `alias` hold what this CPU saw.
        Probe = 1,
        /// One `getppid`: an entry and nothing else.
        Enter = 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_trip_and_strangers_are_named() {
        for command in [
            Command::Flip,
            Command::Vunmap,
            Command::ReadCounters,
            Command::ReadInterrupts,
            Command::ReadVersion,
            Command::PowerOff,
        ] {
            assert_eq!(Command::try_from(u32::from(command)), Ok(command));
        }
        assert_eq!(Command::try_from(0), Err(UnknownCode(0)));
        assert_eq!(Role::try_from(4), Err(UnknownCode(4)));
    }
}
