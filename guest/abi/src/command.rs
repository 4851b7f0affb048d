//! The codes that travel in the mailbox's words.

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
        /// Text: the contents of the kernel's deferral counters, empty if it has none.
        ReadCounters = 1,
        /// Text: `/proc/interrupts`.
        ReadInterrupts = 2,
        /// Text: `uname -srvm`.
        ReadVersion = 3,
        /// Stop the guest.
        PowerOff = 4,
        /// Send [`KICK_SIGNAL`](crate::KICK_SIGNAL) to the isolated task of CPU `args[0]`. The task
        /// runs on another CPU, so the kernel kicks it with a reschedule IPI (`signal_wake_up_state`
        /// of kernel/signal.c); its handler counts the signal in
        /// [`TaskSlot::signals`](crate::TaskSlot::signals), which may be after the answer.
        /// `results[0]`: 1 when sent.
        Signal = 5,
        /// Run the storm of [`StormKind`](crate::StormKind) `args[0]`: `args[1]` operations (1 to
        /// [`MAX_REPEAT`](crate::module::MAX_REPEAT)) of size `args[2]`, on the
        /// [`Target`](crate::Target) `args[3]`; the kind's row says which there are. `results[0]`:
        /// operations done, also when not all were. `results[1]`: the value that the kind explains,
        /// else 0.
        Storm = 6,
        /// Tell the agent where the kernel has what it does not export, for the storms from now on;
        /// 0 is unknown. `args[0]`: `text_poke_bp` (`smp_text_poke_single` from 6.16 on, which takes
        /// the same). `args[1]`: `text_mutex`.
        Symbols = 7,
        /// Let the isolated tasks that obey [`Order::Stay`] leave the kernel. `results[0]`: how many
        /// stayed. Each acknowledges its order by itself, which may be after the answer.
        LetGo = 8,
        /// Make ready for the storm that the same arguments ask [`Command::Storm`] for: mount, set
        /// buffers and filters up, and do one whole operation, so that what the kernel does only the
        /// first time is done. To be sent before anything is watched or counted; most kinds need
        /// nothing. `results[0]`: operations done.
        Prepare = 9,
        /// Take a [`TraceStep`] `args[0]`, with `args[1]` and `args[2]` as the step explains. What the
        /// kernel traces is its own record of the IPIs that it sends, in a trace instance of its own
        /// that no storm touches.
        Trace = 10,
        /// Run the command of [`COMMAND_FILE`](crate::observe::COMMAND_FILE) on the CPUs that are not
        /// isolated, until it ends, but no longer than `args[0]` milliseconds of the guest: then it and
        /// all that it started are killed. The same when the rig puts 1 into `args[1]` meanwhile.
        /// `results[0]`: an [`Ending`]. `results[1]`: its exit code or
        /// the signal's number. `results[2]`: bytes that it printed.
        Execute = 11,
        /// Text: what the last [`Command::Execute`] printed, from byte `args[0]` on.
        ReadOutput = 12,
        /// Write a part of a file. [`Mailbox::handed`](crate::Mailbox::handed): the file's path below
        /// the root, `args[0]` bytes of it, and then the part. `args[1]`: where in the file the part
        /// begins; at 0 the file is made, with the directories that it lacks, or emptied, and gets the
        /// permissions `args[2]`. `results[0]`: the file's length in bytes afterwards.
        Put = 13,
        /// Start `args[1]` processes on isolated CPU `args[0]` that sleep in the module and take part in
        /// each [`Order::Relay`] of that CPU: so many address spaces besides the isolated task's.
        /// `results[0]`: how many take part.
        AddressSpaces = 14,
        /// Start a process on CPU `args[0]`, which is not isolated, that stays in a user-space loop from
        /// then on. [`TaskSlot::heartbeat`](crate::TaskSlot::heartbeat) of its slot grows each turn.
        Occupy = 15,
        /// Take CPU `args[0]` offline and bring it back. No task may be bound to it.
        Replug = 16,
        /// Text: the kernel's deferral counters as they were just before the first isolated task was
        /// started, empty if it has none.
        ReadBootCounters = 17,
        /// Text: the next part of a [`KernelText`] `args[0]`; empty at its end. `args[1]`: 0 for its first
        /// part, 1 for the one after the part that was read last.
        ReadKernelText = 18,
        /// Make the CPUs whose bit is set in `args[0]` a partition of their own (`cpuset.cpus.partition`), with the
        /// isolated tasks in it. Text: what the kernel then says of it, `isolated`.
        Partition = 19,
    }
}

codes! {
    /// What a kernel says of itself, for [`Command::ReadKernelText`].
    KernelText {
        /// `/proc/kallsyms`, with addresses.
        Symbols = 1,
        /// `/sys/kernel/notes`: ELF notes, the build id among them. Nothing in a kernel without.
        Notes = 2,
        /// How the kernel is set up, as it was when the agent was ready: lines of words with tabs between them.
        /// `nohz_full`, `isolated`, `online`, `possible`: a file of `/sys/devices/system/cpu` and what is in it.
        /// `tickless`: the CPUs that run in NO_HZ mode, so that their tick can stop, by `/proc/timer_list`.
        /// `log`: a line of the kernel's log that is about isolation. `set`: a file of the kernel's that the agent
        /// wrote to so that isolated CPUs are left alone, what it wrote, and what would come without.
        /// `refused`: the same, and the error.
        Setup = 3,
    }
}

codes! {
    /// What a [`Command::Trace`] does.
    TraceStep {
        /// Record from now on, by the clock `x86-tsc`: `ipi:ipi_send_cpu`, `ipi:ipi_send_cpumask`,
        /// `csd:csd_queue_cpu`, `csd:csd_function_entry` and `csd:csd_function_exit`, as far as they
        /// concern a CPU whose bit is set in `args[1]`. `args[2]`: KiB of buffer for each CPU. What
        /// comes when it is full is lost, and counted. Text: one line for each event, its name and
        /// its filter.
        Start = 1,
        /// Record no more. Text: none.
        Stop = 2,
        /// Text: the next part of the record, of whole or broken lines; empty at its end. Only after
        /// a stop.
        Read = 3,
        /// Text: `per_cpu/cpuN/stats`, with N as `args[1]`.
        Stats = 4,
        /// Text: the kernel's own histogram of ticks of the time-stamp counter from `csd_queue_cpu` to
        /// `csd_function_entry`, by powers of two; empty if it has no such histograms.
        Histogram = 5,
    }
}

codes! {
    /// How the command of a [`Command::Execute`] ended.
    Ending {
        /// By itself, with an exit code.
        Exited = 1,
        /// Killed by a signal that the agent did not send.
        Signalled = 2,
        /// Killed by the agent, because its time was over.
        TimeUp = 3,
        /// Killed by the agent, because the rig asked it to.
        Stopped = 4,
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
        /// The kernel, or the initramfs, lacks what the command needs; the text says what.
        Lacking = 4,
    }
}

codes! {
    /// What the rig can ask of an isolated task: leave the loop, enter the kernel, come back.
    ///
    /// What is ordered is the first entry after the order arrived. Further ones may follow it before
    /// the acknowledgement: returning from a signal handler is a system call, and so is getting the
    /// next page out of the way. An order with a [`signal`](Order::signal) is done when the task's
    /// handler ran exactly once, for that signal and [`vector`](Order::vector); else its errno is
    /// EPROTO. The task rehearses
    /// each order before it spins: one that fails with EPROTO then is one that this machine cannot
    /// produce, and is answered with ENOTSUP from then on, without an entry.
    Order {
        /// One system call into the module's probe: `branch`, `alias` and `nmis` hold what this CPU
        /// saw.
        Probe = 1,
        /// One `getppid`: an entry and nothing else.
        Enter = 2,
        /// A write to a page that is valid and not present: #PF, error code 6 (SDM vol. 3, figure
        /// "Page-Fault Error Code"). EPROTO if the kernel counted no fault.
        PageFault = 3,
        /// HLT in user space: #GP, then SIGSEGV.
        GeneralProtection = 4,
        /// UD2: #UD, then SIGILL.
        InvalidOpcode = 5,
        /// One instruction with RFLAGS.TF set: #DB, then SIGTRAP.
        SingleStep = 6,
        /// INT3: #BP, then SIGTRAP.
        Breakpoint = 7,
        /// Stay in the kernel, awake and open to interrupts, until [`Command::LetGo`] or the next order, but no longer
        /// than [`STAY_LIMIT_MS`](crate::STAY_LIMIT_MS): then the errno is ETIMEDOUT. ENODEV without
        /// a module. The task cannot say that it is inside; the rig sees its privilege level.
        Stay = 8,
        /// As [`Probe`](Order::Probe), and before the system call returns each process of
        /// [`Command::AddressSpaces`] on this CPU looks through the alias as well, one after the other,
        /// the next time in the opposite order: the CPU goes through all their address spaces without
        /// leaving the kernel. `alias` is the first word that is not what it should be, whoever read it.
        Relay = 9,
        /// As [`Stay`](Order::Stay), but asleep: the CPU has nothing to run, and idles.
        Sleep = 10,
        /// INT 0x80 with the number of `getppid` among 32-bit system calls. EPROTO if the kernel takes
        /// no 32-bit system calls.
        Int80 = 11,
        /// The same by SYSENTER from a 32-bit code segment. EPROTO as well where the CPU has none in
        /// IA-32e mode (AMD's).
        Sysenter = 12,
        /// The same by SYSCALL from a 32-bit code segment. EPROTO as well where the CPU has none outside
        /// of 64-bit mode (Intel's).
        CompatSyscall = 13,
        /// A misaligned access with RFLAGS.AC set: #AC, then SIGBUS.
        AlignmentCheck = 14,
        /// `rt_sigreturn` to a code segment that there is not: the IRET raises #GP, which the kernel takes
        /// as if it came from user space. Then SIGSEGV.
        BadIret = 15,
        /// `rt_sigreturn` to a stack segment of 16 bits: the kernel returns by espfix64. EPROTO if it has
        /// none, or no `modify_ldt`.
        Espfix = 16,
        /// Both: the IRET raises a double fault, of which the kernel makes a #GP. Then SIGSEGV.
        DoubleFault = 17,
        /// Nothing: the task does not enter the kernel, or leaves it if it obeys [`Stay`](Order::Stay).
        Leave = 18,
    }
}

impl Order {
    /// Vector of the exception by which the order enters the kernel, if it does (SDM vol. 3, table
    /// "Protected-Mode Exceptions and Interrupts").
    #[must_use]
    pub const fn vector(self) -> Option<u8> {
        match self {
            Self::Probe
            | Self::Enter
            | Self::Stay
            | Self::Relay
            | Self::Sleep
            | Self::Sysenter
            | Self::CompatSyscall
            | Self::Leave
            | Self::Espfix => None,
            Self::DoubleFault => Some(8),
            Self::BadIret => Some(13),
            Self::Int80 => Some(0x80),
            Self::AlignmentCheck => Some(17),
            Self::PageFault => Some(14),
            Self::GeneralProtection => Some(13),
            Self::InvalidOpcode => Some(6),
            Self::SingleStep => Some(1),
            Self::Breakpoint => Some(3),
        }
    }

    /// Number of the signal that the order ends in, if it does (signal(7), x86).
    #[must_use]
    pub const fn signal(self) -> Option<u32> {
        match self {
            Self::Probe
            | Self::Enter
            | Self::PageFault
            | Self::Stay
            | Self::Relay
            | Self::Sleep
            | Self::Int80
            | Self::Sysenter
            | Self::CompatSyscall
            | Self::Leave
            | Self::Espfix => None,
            Self::AlignmentCheck => Some(7),
            Self::GeneralProtection | Self::BadIret | Self::DoubleFault => Some(11),
            Self::InvalidOpcode => Some(4),
            Self::SingleStep | Self::Breakpoint => Some(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::UnknownCode;

    /// Each code of `all` comes back from its number, and the numbers are `first` and on.
    fn check<T>(all: &[T], first: u32)
    where
        T: Copy + core::fmt::Debug + PartialEq + TryFrom<u32, Error = UnknownCode> + Into<u32>,
    {
        for (&code, number) in all.iter().zip(first..) {
            assert_eq!(code.into(), number);
            assert_eq!(T::try_from(number), Ok(code));
        }
        let end = first + u32::try_from(all.len()).unwrap();
        assert_eq!(T::try_from(end), Err(UnknownCode(end)));
    }

    #[test]
    fn codes_survive_the_trip_and_strangers_are_named() {
        check(Role::ALL, 0);
        check(AgentState::ALL, 0);
        check(TaskState::ALL, 0);
        check(Status::ALL, 0);
        check(TraceStep::ALL, 1);
        check(Ending::ALL, 1);
        check(Command::ALL, 1);
        check(Order::ALL, 1);
        assert_eq!(Command::try_from(0), Err(UnknownCode(0)));
        assert_eq!(Order::try_from(0), Err(UnknownCode(0)));
    }

    #[test]
    fn orders_that_raise_exceptions_name_the_vectors_and_the_signals_of_x86() {
        assert!(Order::ALL.iter().map(|order| order.vector()).eq([
            None,
            None,
            Some(14),
            Some(13),
            Some(6),
            Some(1),
            Some(3),
            None,
            None,
            None,
            Some(0x80),
            None,
            None,
            Some(17),
            Some(13),
            None,
            Some(8),
            None
        ]));
        assert!(Order::ALL.iter().map(|order| order.signal()).eq([
            None,
            None,
            None,
            Some(11),
            Some(4),
            Some(5),
            Some(5),
            None,
            None,
            None,
            None,
            None,
            None,
            Some(7),
            Some(11),
            None,
            Some(11),
            None
        ]));
    }
}
