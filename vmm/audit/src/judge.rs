//! What was come by, put together.

use std::collections::BTreeSet;

use crate::finding::{Finding, Open, Unknown, What};
use crate::kernel::Kernel;
use crate::operands::{Swept, sweep};
use crate::sites::{self, Part, PatchSite, Patcher, When};
use crate::text::{Features, Text};
use crate::walk::{self, Root, Walk, Walked};
use crate::{Audit, PageTable, SCHEMA_VERSION, Switch};

/// X86_FEATURE_ALWAYS (arch/x86/include/asm/cpufeatures.h).
const ALWAYS: u16 = 3 * 32 + 21;
/// X86_FEATURE_XENPV and X86_FEATURE_FRED: with them there is no page table isolation.
const NOT_WITH_PTI: [u16; 2] = [8 * 32 + 16, 12 * 32 + 17];
/// Most features that are tried each. Kernels have a dozen in entry text.
const FEATURES_MAX: usize = 64;
/// Most entry points: as many as there are vectors, and some.
const ROOTS_MAX: usize = 512;

pub(crate) fn judge(kernel: &Kernel) -> Audit {
    let roots = roots(kernel);
    let mut seen = Walked::default();
    let mut found_with = std::collections::BTreeMap::new();
    let combinations = combinations(kernel);
    for features in &combinations {
        let mut text = Text::new(kernel, features);
        for root in &roots {
            Walk::new(kernel, &mut text, &mut seen, root).all();
        }
        for key in seen.findings.keys() {
            found_with.entry(*key).or_insert(features);
        }
    }
    let swept = [
        sweep(kernel, Part::Entry, &kernel.entry),
        sweep(kernel, Part::Noinstr, &kernel.noinstr),
    ];
    let sites = sites::find(kernel, &seen.danger_zone);
    let mut offences: Vec<Finding> = seen
        .findings
        .iter()
        .map(|(key @ (address, what), (other, entries))| Finding {
            words: words(kernel, *what, *other),
            entries: entries.iter().cloned().collect(),
            features: found_with
                .get(key)
                .map(|features| names(kernel, features))
                .unwrap_or_default(),
            ..finding(kernel, *what, *address)
        })
        .collect();
    offences.extend(sites.iter().filter_map(|site| patchable(kernel, site)));
    let [entry, _] = &swept;
    for (what, addresses) in [
        (What::Vmalloc, &entry.used.vmalloc),
        (What::ModuleMemory, &entry.used.modules),
    ] {
        offences.extend(addresses.iter().map(|&address| Finding {
            words: words(kernel, what, 0),
            ..finding(kernel, what, address)
        }));
    }
    offences.sort_by_key(|offence| (offence.address, offence.what));
    Audit {
        schema_version: SCHEMA_VERSION,
        banner: kernel.banner(),
        flag: kernel.flag.map(|flag| flag.name.to_owned()),
        combinations: combinations
            .iter()
            .map(|features| names(kernel, features))
            .collect(),
        entries: roots.iter().map(|root| root.name.clone()).collect(),
        switches: switches(kernel, &seen, entry),
        alternatives: kernel.alternatives.len(),
        open: open(kernel, &seen, entry),
        sites,
        memory: swept.into_iter().map(|swept| swept.used).collect(),
        offences,
    }
}

/// The entry points: where the IDT and the MSRs of SYSCALL and SYSENTER lead to, by the names that they
/// have in arch/x86/entry. Those of Xen PV and of FRED are of no concern where there is page table
/// isolation.
fn roots(kernel: &Kernel) -> Vec<Root> {
    let mut roots: Vec<Root> = Vec::new();
    for (address, name) in kernel.symbols().within(kernel.entry.range.clone()) {
        let from_user_only = matches!(
            name,
            "entry_SYSCALL_64" | "entry_SYSENTER_compat" | "entry_SYSCALL_compat"
        );
        let through_idt = matches!(
            name,
            "entry_INT80_compat" | "irq_entries_start" | "spurious_entries_start"
        ) || [
            "asm_exc_",
            "asm_sysvec_",
            "asm_common_",
            "asm_spurious_",
            "asm_int",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix));
        if (from_user_only || through_idt && !name.contains("xen"))
            && roots.len() < ROOTS_MAX
            && roots.last().is_none_or(|last| last.address != address)
        {
            roots.push(Root {
                name: name.to_owned(),
                address,
                from_user_only,
            });
        }
    }
    roots
}

/// The CPU features to follow entry text with: PTI without and with PCID, and with both each other
/// one, and all.
fn combinations(kernel: &Kernel) -> Vec<Features> {
    let mut others = kernel.features();
    others.retain(|feature| {
        ![ALWAYS, kernel.pti, kernel.pcid].contains(feature) && !NOT_WITH_PTI.contains(feature)
    });
    others.truncate(FEATURES_MAX);
    let with = |features: &[u16]| {
        let base = [ALWAYS, kernel.pti];
        Features(base.into_iter().chain(features.iter().copied()).collect())
    };
    let mut all = vec![with(&[]), with(&[kernel.pcid])];
    if others.len() > 1 {
        all.extend(others.iter().map(|&feature| with(&[kernel.pcid, feature])));
    }
    if !others.is_empty() {
        others.push(kernel.pcid);
        all.push(with(&others));
    }
    all
}

/// The names of `features` as /proc/cpuinfo has them.
fn names(kernel: &Kernel, features: &Features) -> Vec<String> {
    let name = |feature: &u16| match *feature {
        feature if feature == kernel.pti => "pti".to_owned(),
        feature if feature == kernel.pcid => "pcid".to_owned(),
        feature => kernel.feature_name(feature),
    };
    let features = features.0.iter().filter(|feature| **feature != ALWAYS);
    features.map(name).collect()
}

fn finding(kernel: &Kernel, what: What, address: u64) -> Finding {
    Finding {
        what,
        address,
        place: kernel.place(address),
        instruction: sites::instruction(&kernel.entry, address),
        words: String::new(),
        entries: Vec::new(),
        features: Vec::new(),
    }
}

fn words(kernel: &Kernel, what: What, other: u64) -> String {
    let other = kernel.place(other);
    match what {
        What::FlagNotSet => {
            format!(
                "loads the kernel's page table, and the flag is not set when {other} is reached, which leaves entry text"
            )
        }
        What::NoCatchUpAfterFlag => {
            format!("sets the flag after the kernel's page table was loaded, at {other}")
        }
        What::FlagClearInKernel => "leaves entry text with the flag clear".to_owned(),
        What::FlagClearedEarly => {
            format!("clears the flag before the user's page table is loaded, at {other}")
        }
        What::FlagNotCleared => {
            format!("loads the user's page table, and {other} returns with the flag still set")
        }
        What::FlagNotRestored => {
            format!("clears the flag, which was found set, and {other} returns")
        }
        What::FlagUnclear => "writes the flag, but what is not known".to_owned(),
        What::FlagOnUserGs => {
            "writes the flag relative to GS, which may still have the user's base".to_owned()
        }
        What::NoKernelTable => "leaves entry text on the user's page table".to_owned(),
        What::Vmalloc => "accesses a fixed address in vmalloc memory".to_owned(),
        What::ModuleMemory => "accesses a fixed address where modules are".to_owned(),
        What::StaticKey | What::StaticCall | What::Ftrace => String::new(),
    }
}

/// The offence that a site in entry text is, if it can be patched at run time.
fn patchable(kernel: &Kernel, site: &PatchSite) -> Option<Finding> {
    if site.part != Part::Entry || site.when == When::Boot {
        return None;
    }
    let zone = if site.danger_zone {
        ", and is executed before the CPU has caught up"
    } else {
        ""
    };
    let key = site.key.as_deref().unwrap_or_default();
    let (what, by) = match site.patcher {
        Patcher::StaticKey => (What::StaticKey, format!("when static key {key} changes")),
        Patcher::StaticCall => (What::StaticCall, format!("when static call {key} changes")),
        Patcher::Ftrace => (What::Ftrace, "by ftrace".to_owned()),
    };
    Some(Finding {
        words: format!("can be patched at run time {by}{zone}"),
        ..finding(kernel, what, site.address)
    })
}

fn switches(kernel: &Kernel, seen: &Walked, entry: &Swept) -> Vec<Switch> {
    let mut addresses: BTreeSet<u64> = seen.switches.keys().copied().collect();
    addresses.extend(in_text(kernel, entry));
    addresses
        .into_iter()
        .map(|address| {
            let written = seen.switches.get(&address).copied().unwrap_or_default();
            Switch {
                address,
                place: kernel.place(address),
                instruction: sites::instruction(&kernel.entry, address),
                loads: match (written.kernel, written.user) {
                    (true, false) => PageTable::Kernel,
                    (false, true) => PageTable::User,
                    (true, true) => PageTable::Either,
                    (false, false) => PageTable::Unknown,
                },
                store: written.store.map(|store| kernel.place(store)),
            }
        })
        .collect()
}

/// The writes to CR3 in entry text itself; one in a replacement has an address that nothing executes.
fn in_text(kernel: &Kernel, entry: &Swept) -> impl Iterator<Item = u64> {
    let writes = entry.cr3_writes.iter().copied();
    writes.filter(|address| kernel.entry.range.contains(address))
}

fn open(kernel: &Kernel, seen: &Walked, entry: &Swept) -> Vec<Open> {
    let one = |address, why, entries: Vec<String>| Open {
        why,
        address,
        place: kernel.place(address),
        instruction: sites::instruction(&kernel.entry, address),
        entries,
    };
    let mut all: Vec<Open> = seen
        .open
        .iter()
        .map(|((address, open), entries)| {
            let why = match open {
                walk::Open::Pointer => Unknown::PerCpuPointer,
                walk::Open::PageTable => Unknown::PageTable,
                walk::Open::Calls | walk::Open::Ways => Unknown::TooMuch,
            };
            one(*address, why, entries.iter().cloned().collect())
        })
        .collect();
    let unreached = in_text(kernel, entry).filter(|address| !seen.switches.contains_key(address));
    all.extend(unreached.map(|address| one(address, Unknown::Unreached, Vec::new())));
    if kernel.flag.is_some() && !seen.paranoid {
        let address = kernel.entry.range.start;
        all.push(one(address, Unknown::NoParanoidEntry, Vec::new()));
    }
    all.sort_by_key(|open| (open.address, open.why));
    all
}
