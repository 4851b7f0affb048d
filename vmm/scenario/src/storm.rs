//! Storms: bursts of one kind of operation, run on the control vCPU.

use std::fmt;
use std::ops::RangeInclusive;

use ipirig_abi::{Command, StormKind};

/// A burst of operations, each of which makes a stock kernel interrupt every CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storm {
    /// Which.
    pub kind: &'static Kind,
    /// How many operations.
    pub operations: u64,
    /// Of which size, where the kind has one; else 0.
    pub size: u64,
}

/// A kind of storm.
#[derive(Debug, PartialEq, Eq)]
pub struct Kind {
    /// Its name in scenario files.
    pub name: &'static str,
    /// The storm in words: `{n}` stands for the number of operations, `{size}` for their size.
    words: &'static str,
    /// The sizes that it takes; `None`: it has none.
    pub sizes: Option<RangeInclusive<u64>>,
    /// The number of operations must be odd, or what they change ends as it began.
    pub odd: bool,
    /// What it has the guest do.
    calls: &'static [Call],
}

/// What one command of a storm asks for and changes.
#[derive(Debug, PartialEq, Eq)]
struct Call {
    what: What,
    changes: Changes,
    /// See [`Part::calls_each`].
    calls_each: u64,
    completion: Option<Completion>,
}

#[derive(Debug, PartialEq, Eq)]
enum What {
    Command(Command),
    Storm(StormKind),
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

const fn flip() -> Call {
    Call {
        what: What::Command(Command::Flip),
        changes: Changes::Text,
        // INT3, the tail, the first byte (text_poke_bp_batch of arch/x86/kernel/alternative.c).
        calls_each: 3,
        completion: Some(Completion::Branch),
    }
}

const fn vunmap() -> Call {
    Call {
        what: What::Command(Command::Vunmap),
        changes: Changes::Tlb,
        // Each round purges what it freed.
        calls_each: 1,
        completion: Some(Completion::Alias),
    }
}

const fn storm(kind: StormKind, changes: Changes) -> Call {
    Call {
        what: What::Storm(kind),
        changes,
        calls_each: 0,
        completion: None,
    }
}

const fn plain(name: &'static str, words: &'static str, calls: &'static [Call]) -> Kind {
    Kind {
        name,
        words,
        sizes: None,
        odd: false,
        calls,
    }
}

/// Every kind; a new one is a row.
pub(super) const KINDS: &[Kind] = &[
    Kind {
        odd: true,
        ..plain("static-key-flip", "{n} static key flips", &[flip()])
    },
    Kind {
        sizes: Some(1..=4096),
        ..plain(
            "vunmap",
            "{n} rounds of vmalloc and vfree, {size} pages each",
            &[vunmap()],
        )
    },
    Kind {
        odd: true,
        sizes: Some(1..=4096),
        ..plain(
            "text-and-tlb",
            "{n} static key flips and {n} rounds of vmalloc and vfree, {size} pages each",
            &[flip(), vunmap()],
        )
    },
    plain(
        "static-key-many",
        "{n} flips of a static key with 64 sites",
        &[storm(StormKind::StaticKeyMany, Changes::Text)],
    ),
    plain(
        "image-key",
        "{n} times a static key of the kernel image on and off",
        &[storm(StormKind::ImageKey, Changes::Text)],
    ),
    plain(
        "static-call",
        "{n} updates of a static call with 16 sites",
        &[storm(StormKind::StaticCall, Changes::Text)],
    ),
    plain(
        "noinstr-key",
        "{n} flips of a static key used in noinstr text",
        &[storm(StormKind::NoinstrKey, Changes::Text)],
    ),
    plain(
        "entry-text-poke",
        "{n} pokes of entry text",
        &[storm(StormKind::EntryTextPoke, Changes::Text)],
    ),
    Kind {
        sizes: Some(1..=512),
        ..plain(
            "set-memory",
            "{n} times {size} pages uncached and cached again",
            &[storm(StormKind::SetMemory, Changes::Tlb)],
        )
    },
    plain(
        "page-table-free",
        "{n} page tables freed by huge mappings",
        &[storm(StormKind::PageTableFree, Changes::Tlb)],
    ),
    Kind {
        sizes: Some(1..=8),
        ..plain(
            "vmalloc-huge",
            "{n} rounds of vmalloc and vfree, {size} huge pages each",
            &[storm(StormKind::VmallocHuge, Changes::Tlb)],
        )
    },
    Kind {
        sizes: Some(1..=64),
        ..plain(
            "vmap-stack",
            "{n} processes created and killed, {size} at once",
            &[storm(StormKind::VmapStack, Changes::Tlb)],
        )
    },
    plain(
        "module-load",
        "{n} times a module loaded and unloaded",
        &[storm(StormKind::ModuleLoad, Changes::Some)],
    ),
    plain(
        "housekeeping-load",
        "{n} messages between processes, with forks and vfrees",
        &[storm(StormKind::HousekeepingLoad, Changes::Some)],
    ),
    plain(
        "tracepoint",
        "{n} times a tracepoint on and off",
        &[storm(StormKind::Tracepoint, Changes::Text)],
    ),
    plain(
        "kprobe",
        "{n} times a kprobe on and off",
        &[storm(StormKind::Kprobe, Changes::Text)],
    ),
    plain(
        "ftrace",
        "{n} times the function tracer on and off",
        &[storm(StormKind::Ftrace, Changes::Text)],
    ),
    plain(
        "bpf-jit",
        "{n} BPF programs compiled and freed",
        &[storm(StormKind::BpfJit, Changes::Some)],
    ),
];

/// One command of a storm, and what must come of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The command.
    pub command: Command,
    /// Its arguments.
    pub args: [u64; 4],
    /// Operations asked for; the guest must report as many done.
    pub operations: u64,
    /// What it changes.
    pub changes: Changes,
    /// How often each operation calls the functions that make such changes, at least. 0: that varies.
    pub calls_each: u64,
    /// What the first entry must show, if anything.
    pub completion: Option<Completion>,
}

impl Kind {
    /// The kind of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.name == name)
    }
}

impl Storm {
    /// What it consists of, in order.
    #[must_use]
    pub fn parts(self) -> Vec<Part> {
        let (operations, size) = (self.operations, self.size);
        let part = |call: &Call| {
            let (command, args) = match call.what {
                What::Command(command) => (command, [operations, size, 0, 0]),
                What::Storm(kind) => {
                    let code = u64::from(u32::from(kind));
                    (Command::Storm, [code, operations, size, 0])
                }
            };
            Part {
                command,
                args,
                operations,
                changes: call.changes,
                calls_each: call.calls_each,
                completion: call.completion,
            }
        };
        self.kind.calls.iter().map(part).collect()
    }

    /// Operations asked for, of all parts together.
    #[must_use]
    pub fn operations(self) -> u64 {
        self.operations * self.kind.calls.len() as u64
    }

    /// Whether it needs `ipirig.ko` in the guest from the first operation on.
    #[must_use]
    pub fn needs_module(self) -> bool {
        self.kind.calls.iter().any(|call| match call.what {
            What::Command(_) => true,
            What::Storm(kind) => matches!(
                kind,
                StormKind::StaticKeyMany
                    | StormKind::StaticCall
                    | StormKind::SetMemory
                    | StormKind::PageTableFree
                    | StormKind::NoinstrKey
                    | StormKind::EntryTextPoke
                    | StormKind::VmapStack
                    | StormKind::VmallocHuge
            ),
        })
    }

    /// Whether `kind` is what it has the agent do, or part of it.
    #[must_use]
    pub fn consists_of(self, kind: StormKind) -> bool {
        let is = |call: &Call| call.what == What::Storm(kind);
        self.kind.calls.iter().any(is)
    }
}

impl fmt::Display for Storm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.kind.words.replace("{n}", &self.operations.to_string());
        f.write_str(&text.replace("{size}", &self.size.to_string()))
    }
}
