//! The table of storms: bursts of one kind of operation, run on the control vCPU.
//!
//! A row says all that rig and agent must know of a storm. How its operations are done is code of the agent
//! (`guest/storms`) or of the module (`guest/module`), which finds a storm by its number.

use core::ops::RangeInclusive;

use crate::module::{MAX_CPA_PAGES, MAX_HUGE_PAGES, MAX_IOREMAP_PAGES, MAX_PAGES};

/// What rig and agent know of a storm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StormProperties {
    /// Its name in scenario files.
    pub name: &'static str,
    /// The storm in words: `{n}` stands for the number of operations, `{size}` for their size.
    pub words: &'static str,
    /// The sizes that an operation may have; `None`: it has none, and 0 is sent.
    pub sizes: Option<RangeInclusive<u64>>,
    /// The number of operations must be odd, or what they change ends as it began.
    pub odd: bool,
    /// What it needs.
    pub needs: Needs,
    /// What `args[3]` of [`Command::Storm`](crate::Command::Storm) says; `None`: nothing, and 0 is sent.
    pub target: Option<Target>,
    /// What an operation changes.
    pub changes: Changes,
    /// How often each operation calls the functions that make such changes, at least. 0: that varies.
    pub calls_each: u64,
    /// What the first entry must show, if anything.
    pub completion: Option<Completion>,
}

/// What a storm needs of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Of the kernel what it offers to user space. The agent finds out, and says what is lacking.
    Kernel,
    /// The module `ipirig.ko` too, for a part of each operation.
    Module,
    /// The module's trigger ([`TRIGGER`](crate::module::TRIGGER)), which does each operation.
    Trigger {
        /// What the kernel lacks if the module answers EOPNOTSUPP.
        or_lacks: &'static str,
    },
}

/// What the rig looks up in the kernel that runs, for the storm to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The address of a NOP (66 90, or 0f 1f 44 00 00) of entry text. What the kernel does not export comes by
    /// [`Command::Symbols`](crate::Command::Symbols) before.
    EntryNop,
    /// The bytes from the begin of [`TRACED_FUNCTION`](crate::TRACED_FUNCTION) to the instruction after its call
    /// of ftrace; 0 if that is not known.
    TracedInstruction,
    /// The number of [`TRACED_FUNCTION`](crate::TRACED_FUNCTION) among the functions that can be traced, counted
    /// from 1 by rising address; 0 if that is not known.
    TracedNumber,
}

/// What an operation changes that other CPUs may have cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changes {
    /// Kernel text.
    Text,
    /// Kernel translations.
    Tlb,
    /// Of both something, or of one: a mixed load.
    Some,
}

/// What an isolated vCPU's first entry must show, and where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It takes the branch that the last flip chose.
    Branch,
    /// It reads the page that the alias was moved to.
    Alias,
}

/// A row that says nothing yet.
const PLAIN: StormProperties = StormProperties {
    name: "",
    words: "",
    sizes: None,
    odd: false,
    needs: Needs::Kernel,
    target: None,
    changes: Changes::Some,
    calls_each: 0,
    completion: None,
};

/// What a kernel lacks in which the module refuses to flip static keys.
const NO_JUMP_LABEL: &str =
    "no CONFIG_JUMP_LABEL: a static key is a variable, and a flip patches nothing";

macro_rules! storms {
    ($($(#[$meta:meta])* $kind:ident = $value:literal, $row:expr;)*) => {
        codes! {
            /// What a [`Command::Storm`](crate::Command::Storm) consists of. The numbers of those that need a
            /// [`Trigger`](Needs::Trigger) are in `guest/module/ipirig.h` too.
            StormKind { $($(#[$meta])* $kind = $value,)* }
        }

        impl StormKind {
            /// Its row of the table.
            #[must_use]
            pub fn properties(self) -> &'static StormProperties {
                match self {
                    $(Self::$kind => {
                        const ROW: &StormProperties = &$row;
                        ROW
                    })*
                }
            }
        }
    };
}

storms! {
    /// Flip the module's private static key, which has one site. Value: the key afterwards, 0 or 1.
    StaticKeyFlip = 16, StormProperties {
        name: "static-key-flip",
        words: "{n} static key flips",
        odd: true,
        needs: Needs::Trigger { or_lacks: NO_JUMP_LABEL },
        changes: Changes::Text,
        // INT3, the tail, the first byte (text_poke_bp_batch of arch/x86/kernel/alternative.c).
        calls_each: 3,
        completion: Some(Completion::Branch),
        ..PLAIN
    };
    /// vmalloc `size` pages, touch and vfree them, and purge the lazily freed areas. After the last operation the
    /// probe alias (a vmap of one page) moves to another page at the same address. Value: the word that a read
    /// through the alias must now give, or 0 if it did not move.
    Vunmap = 17, StormProperties {
        name: "vunmap",
        words: "{n} rounds of vmalloc and vfree, {size} pages each",
        sizes: Some(1..=MAX_PAGES as u64),
        needs: Needs::Trigger { or_lacks: "the kernel does not support it" },
        changes: Changes::Tlb,
        // Each round purges what it freed.
        calls_each: 1,
        completion: Some(Completion::Alias),
        ..PLAIN
    };
    /// Flip a key of the module that has 64 sites: each flip patches them as one batch. Value: the sites that are
    /// enabled afterwards, 0 or 64.
    StaticKeyMany = 1, StormProperties {
        name: "static-key-many",
        words: "{n} flips of a static key with 64 sites",
        needs: Needs::Trigger { or_lacks: NO_JUMP_LABEL },
        changes: Changes::Text,
        ..PLAIN
    };
    /// Turn the static key `sched_schedstats` of the kernel image on and off.
    ImageKey = 14, StormProperties {
        name: "image-key",
        words: "{n} times a static key of the kernel image on and off",
        changes: Changes::Text,
        ..PLAIN
    };
    /// Update a static call of the module that has 16 sites: each site is poked by itself. Value: the sites that
    /// call the new target afterwards, 0 or 16.
    StaticCall = 2, StormProperties {
        name: "static-call",
        words: "{n} updates of a static call with 16 sites",
        needs: Needs::Trigger {
            or_lacks: "no CONFIG_HAVE_STATIC_CALL: a static call is a pointer, and an update patches nothing",
        },
        changes: Changes::Text,
        ..PLAIN
    };
    /// Flip a key of the module whose one site is in noinstr text: the syncs must never be deferred. Value: the
    /// key afterwards, 0 or 1.
    NoinstrKey = 5, StormProperties {
        name: "noinstr-key",
        words: "{n} flips of a static key used in noinstr text",
        needs: Needs::Trigger { or_lacks: NO_JUMP_LABEL },
        changes: Changes::Text,
        ..PLAIN
    };
    /// Poke a NOP of the kernel's text with itself. While a poke lasts the NOP begins with INT3: no CPU may
    /// execute it where the kernel cannot take a #BP. Value: the NOP's length if it is whole afterwards, else 0.
    EntryTextPoke = 6, StormProperties {
        name: "entry-text-poke",
        words: "{n} pokes of entry text",
        needs: Needs::Trigger {
            or_lacks: "text_poke_bp cannot be called: its address or text_mutex's is not known, or the kernel \
                       checks indirect calls (CONFIG_CFI_CLANG, CONFIG_X86_KERNEL_IBT)",
        },
        target: Some(Target::EntryNop),
        changes: Changes::Text,
        ..PLAIN
    };
    /// Make `size` pages of the direct map uncached and cached again: two changes of page attributes, whose
    /// flushes must never be deferred.
    SetMemory = 3, StormProperties {
        name: "set-memory",
        words: "{n} times {size} pages uncached and cached again",
        sizes: Some(1..=MAX_CPA_PAGES as u64),
        needs: Needs::Trigger { or_lacks: "the kernel does not support it" },
        changes: Changes::Tlb,
        ..PLAIN
    };
    /// Have a page table freed by a huge mapping that takes its place: a flush that must never be deferred. Two
    /// more flushes, of the mappings' translations, may be. Value: attempts that freed no table and were made
    /// again.
    PageTableFree = 4, StormProperties {
        name: "page-table-free",
        words: "{n} page tables freed by huge mappings",
        needs: Needs::Trigger {
            or_lacks: "ioremap() makes no huge mappings (no CONFIG_HAVE_ARCH_HUGE_VMAP, or nohugeiomap)",
        },
        changes: Changes::Tlb,
        ..PLAIN
    };
    /// Allocate `size` huge pages (of 2 MiB) of vmalloc memory, touch and free them, and purge the lazily freed
    /// areas: one flush, which may be deferred. Value: allocations that were not of huge pages and were made again.
    VmallocHuge = 15, StormProperties {
        name: "vmalloc-huge",
        words: "{n} rounds of vmalloc and vfree, {size} huge pages each",
        sizes: Some(1..=MAX_HUGE_PAGES as u64),
        needs: Needs::Trigger {
            or_lacks: "vmalloc() makes no huge mappings (no CONFIG_HAVE_ARCH_HUGE_VMALLOC, nohugevmalloc, or no \
                       memory of that size)",
        },
        changes: Changes::Tlb,
        ..PLAIN
    };
    /// Map `size` pages of the physical address space that nothing lives at (ioremap), unmap them, and purge the lazily
    /// freed areas, as a driver that comes and goes does: one flush, which may be deferred.
    Ioremap = 18, StormProperties {
        name: "ioremap",
        words: "{n} times {size} pages of device memory mapped and unmapped",
        sizes: Some(1..=MAX_IOREMAP_PAGES as u64),
        needs: Needs::Trigger { or_lacks: "the kernel does not support it" },
        changes: Changes::Tlb,
        calls_each: 1,
        ..PLAIN
    };
    /// Create `size` processes, whose kernel stacks lie in the vmalloc area, kill them, and have the stacks that
    /// the kernel does not keep for the next ones unmapped and purged: one flush, which may be deferred. A CPU
    /// keeps two (NR_CACHED_STACKS of kernel/fork.c), so the third is unmapped.
    VmapStack = 7, StormProperties {
        name: "vmap-stack",
        words: "{n} processes created and killed, {size} at once",
        sizes: Some(3..=64),
        needs: Needs::Module,
        changes: Changes::Tlb,
        ..PLAIN
    };
    /// Load and unload the module `/ipirig_dummy.ko`.
    ModuleLoad = 8, StormProperties {
        name: "module-load",
        words: "{n} times a module loaded and unloaded",
        ..PLAIN
    };
    /// A load like hackbench's on all CPUs that are not isolated: on each a process that sends as many messages
    /// through a pipe as there are operations, to one on the next. Meanwhile, for every 8 messages begun, 4
    /// processes come and go on the control CPU, which does one operation of [`Vunmap`](Self::Vunmap) and one of
    /// [`StaticKeyFlip`](Self::StaticKeyFlip). Value: pairs of processes.
    HousekeepingLoad = 9, StormProperties {
        name: "housekeeping-load",
        words: "{n} messages between processes, with forks and vfrees",
        needs: Needs::Module,
        ..PLAIN
    };
    /// Enable and disable the trace event `sched:sched_waking`.
    Tracepoint = 10, StormProperties {
        name: "tracepoint",
        words: "{n} times a tracepoint on and off",
        changes: Changes::Text,
        ..PLAIN
    };
    /// Add, enable, disable and remove a kprobe at an instruction of
    /// [`TRACED_FUNCTION`](crate::TRACED_FUNCTION). At the call of ftrace, which may be the first, a kprobe is
    /// ftrace's; elsewhere it is an INT3.
    Kprobe = 11, StormProperties {
        name: "kprobe",
        words: "{n} times a kprobe on and off",
        target: Some(Target::TracedInstruction),
        changes: Changes::Text,
        ..PLAIN
    };
    /// Trace one function, which does not run meanwhile: the tracer `function`, then `nop`. The target spares the
    /// kernel looking at the names of all functions.
    Ftrace = 12, StormProperties {
        name: "ftrace",
        words: "{n} times the function tracer on and off",
        target: Some(Target::TracedNumber),
        changes: Changes::Text,
        ..PLAIN
    };
    /// Attach a classic BPF program, which the kernel compiles, to a socket; the one before it is freed.
    BpfJit = 13, StormProperties {
        name: "bpf-jit",
        words: "{n} BPF programs compiled and freed",
        ..PLAIN
    };
}

impl StormKind {
    /// The arguments of [`Command::Storm`](crate::Command::Storm) and of [`Command::Prepare`](crate::Command::Prepare).
    #[must_use]
    pub fn args(self, operations: u64, size: u64, target: u64) -> [u64; 4] {
        [u32::from(self).into(), operations, size, target]
    }
}

impl StormProperties {
    /// Whether an operation may be of this size.
    #[must_use]
    pub fn takes(&self, size: u64) -> bool {
        self.sizes
            .as_ref()
            .map_or(size == 0, |sizes| sizes.contains(&size))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use super::*;
    use crate::UnknownCode;

    #[test]
    fn the_storms_have_numbers_from_1_on_and_names_and_words_of_their_own() {
        let all = StormKind::ALL;
        let count = u32::try_from(all.len()).unwrap();
        let numbers: BTreeSet<u32> = all.iter().map(|&kind| kind.into()).collect();
        assert!(numbers.into_iter().eq(1..=count));
        for &kind in all {
            assert_eq!(StormKind::try_from(u32::from(kind)), Ok(kind));
        }
        let stranger = count + 1;
        assert_eq!(StormKind::try_from(stranger), Err(UnknownCode(stranger)));
        let rows = || all.iter().map(|kind| kind.properties());
        let names: BTreeSet<&str> = rows().map(|row| row.name).collect();
        assert_eq!(names.len(), all.len());
        for row in rows() {
            let size = row.words.contains("{size}");
            assert_eq!(
                (row.words.contains("{n}"), size),
                (true, row.sizes.is_some()),
                "{row:?}"
            );
        }
    }

    #[test]
    fn a_size_is_one_of_the_row_or_0_where_it_has_none() {
        let sizes = |kind: StormKind| [0, 1, 3, 64, 65].map(|size| kind.properties().takes(size));
        assert_eq!(
            sizes(StormKind::VmapStack),
            [false, false, true, true, false]
        );
        assert_eq!(sizes(StormKind::BpfJit), [true, false, false, false, false]);
    }
}
