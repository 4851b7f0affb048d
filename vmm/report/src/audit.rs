//! An audit as text for people: what it comes to first, then each offence, then the lists.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipirig_audit::{Audit, Finding, MemoryUse, PageTable, Part, PatchSite, Patcher, What, When};
use ipirig_checks::check::Verdict;

use crate::paint::Paint;

/// Entry points that are named for an offence.
const ENTRIES_SHOWN: usize = 3;

/// The audit, with a newline at its end.
#[must_use]
pub fn audit(audit: &Audit, paint: Paint) -> String {
    let mut out = String::new();
    if let Some(banner) = &audit.banner {
        let _ = writeln!(out, "{banner}");
    }
    let _ = writeln!(out, "{}", conclusion(audit, paint));
    summary(&mut out, audit);
    for offence in &audit.offences {
        show(&mut out, offence, paint);
    }
    if !audit.open.is_empty() {
        let _ = writeln!(out, "\nCannot be told");
    }
    for open in &audit.open {
        let _ = writeln!(
            out,
            "  {:#x} {}: {}{}\n      {}",
            open.address,
            open.place,
            open.why,
            from(&open.entries),
            open.instruction,
        );
    }
    switches(&mut out, audit);
    sites(&mut out, audit);
    out
}

fn conclusion(audit: &Audit, paint: Paint) -> String {
    let open = match audit.open.len() {
        0 => String::new(),
        open => format!(", {open} cannot be told"),
    };
    let (verdict, words) = match audit.offences.len() {
        0 if audit.open.is_empty() => (Verdict::Held, "nothing found".to_owned()),
        0 => (Verdict::Skipped, "no offence".to_owned()),
        1 => (Verdict::Violated, "1 offence".to_owned()),
        count => (Verdict::Violated, format!("{count} offences")),
    };
    format!("{}{open}", paint.verdict(verdict, words))
}

fn summary(out: &mut String, audit: &Audit) {
    let mut line = |name: &str, words: String| {
        let _ = writeln!(out, "  {name:<14}{words}");
    };
    line(
        "flag",
        audit.flag.clone().unwrap_or_else(|| {
            "no flag: nothing is deferred, and the order of the switches is not judged".to_owned()
        }),
    );
    let loads = |table| {
        audit
            .switches
            .iter()
            .filter(|switch| switch.loads == table)
            .count()
    };
    line(
        "CR3 writes",
        format!(
            "{} in entry text: {} load the kernel's page table, {} the user's; followed from {} entry \
             points with {} combinations of CPU features, each with PTI",
            audit.switches.len(),
            loads(PageTable::Kernel) + loads(PageTable::Either),
            loads(PageTable::User),
            audit.entries.len(),
            audit.combinations.len(),
        ),
    );
    for (part, name) in [(Part::Entry, "entry text"), (Part::Noinstr, "noinstr text")] {
        let count = |when| {
            let sites = audit.sites.iter();
            sites
                .filter(|site| site.part == part && site.when == when)
                .count()
        };
        let unknown = match count(When::Unknown) {
            0 => String::new(),
            unknown => format!(", {unknown} of unknown keys"),
        };
        let needs = if part == Part::Noinstr {
            ", which need their IPI"
        } else {
            ""
        };
        line(
            name,
            format!(
                "{} sites patched at run time{needs}, {} at boot only{unknown}",
                count(When::Run),
                count(When::Boot),
            ),
        );
    }
    line(
        "alternatives",
        format!("{} in entry text, applied at boot", audit.alternatives),
    );
    for used in &audit.memory {
        line(
            if used.part == Part::Entry {
                "memory"
            } else {
                ""
            },
            memory(used),
        );
    }
}

fn memory(used: &MemoryUse) -> String {
    let part = match used.part {
        Part::Entry => "entry text",
        Part::Noinstr => "noinstr text",
    };
    format!(
        "{part}: {} operands in vmalloc memory, {} in modules, {} at other fixed addresses, {} per-CPU, \
         {} on the stack; {} through pointers, which lead where no instruction says",
        used.vmalloc.len(),
        used.modules.len(),
        used.fixed,
        used.per_cpu,
        used.stack,
        used.unknown,
    )
}

fn show(out: &mut String, offence: &Finding, paint: Paint) {
    let features = match offence.features.as_slice() {
        [] => String::new(),
        features => format!("\n      with {}", features.join(" ")),
    };
    let _ = writeln!(
        out,
        "\n{} at {} ({:#x})\n      {}\n    ! {}{}{features}",
        paint.verdict(Verdict::Violated, kind(offence.what)),
        offence.place,
        offence.address,
        offence.instruction,
        offence.words,
        from(&offence.entries),
    );
}

/// `, from a, b, c and 3 more`.
fn from(entries: &[String]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let shown = entries.get(..ENTRIES_SHOWN).unwrap_or(entries).join(", ");
    match entries.len().checked_sub(ENTRIES_SHOWN) {
        None | Some(0) => format!(", from {shown}"),
        Some(more) => format!(", from {shown} and {more} more"),
    }
}

/// As the JSON has it.
fn kind(what: What) -> String {
    serde_json::to_value(what)
        .ok()
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

fn switches(out: &mut String, audit: &Audit) {
    if audit.switches.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nWrites to CR3 in entry text");
    let places = audit.switches.iter().map(|switch| switch.place.len());
    let width = places.max().unwrap_or_default();
    for switch in &audit.switches {
        let loads = match switch.loads {
            PageTable::Kernel => "kernel",
            PageTable::User => "user",
            PageTable::Either => "either",
            PageTable::Unknown => "unknown",
        };
        let store = match (&switch.store, switch.loads) {
            (None, _) => String::new(),
            (Some(store), PageTable::Kernel) => format!("   flag set at {store}"),
            (Some(store), _) => format!("   flag cleared at {store}"),
        };
        let _ = writeln!(
            out,
            "  {:#x} {:<7} {:<width$}   {}{store}",
            switch.address, loads, switch.place, switch.instruction
        );
    }
}

/// Sites that can be patched at run time, by what patches them.
fn sites(out: &mut String, audit: &Audit) {
    let mut keys: BTreeMap<(Part, Patcher, &str), Vec<&PatchSite>> = BTreeMap::new();
    for site in audit.sites.iter().filter(|site| site.when != When::Boot) {
        let key = site.key.as_deref().unwrap_or("ftrace");
        keys.entry((site.part, site.patcher, key))
            .or_default()
            .push(site);
    }
    if !keys.is_empty() {
        let _ = writeln!(out, "\nPatched at run time");
    }
    for ((part, patcher, key), sites) in keys {
        let part = if part == Part::Entry {
            "entry"
        } else {
            "noinstr"
        };
        let what = match patcher {
            Patcher::StaticKey => "static key ",
            Patcher::StaticCall => "static call ",
            Patcher::Ftrace => "",
        };
        let target = sites.iter().find_map(|site| site.target.as_deref());
        let target = target
            .map(|target| format!(", calls {target} at first"))
            .unwrap_or_default();
        let places: Vec<&str> = sites.iter().map(|site| site.place.as_str()).collect();
        let _ = writeln!(
            out,
            "  {part:<8}{what}{key}{target}\n          {}",
            places.join(" ")
        );
    }
}

#[cfg(test)]
mod tests {
    use ipirig_audit::{Open, Switch, Unknown};

    use super::*;

    fn specimen() -> Audit {
        let at = |offset: u64| 0xffff_ffff_8140_0000 + offset;
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let site =
            |part, offset, place: &str, patcher, key: &str, target: Option<&str>, when| PatchSite {
                part,
                address: at(offset),
                place: place.to_owned(),
                instruction: "nop".to_owned(),
                patcher,
                key: Some(key.to_owned()),
                target: target.map(str::to_owned),
                when,
                danger_zone: false,
            };
        let used = |part| MemoryUse {
            part,
            fixed: 3,
            per_cpu: 26,
            stack: 59,
            unknown: 16,
            vmalloc: vec![],
            modules: vec![],
        };
        Audit {
            schema_version: 1,
            banner: Some("Linux version 6.12".to_owned()),
            flag: Some("kernel_cr3".to_owned()),
            combinations: vec![names(&["pti"]), names(&["pcid", "pti"])],
            entries: names(&["entry_SYSCALL_64"]),
            switches: vec![Switch {
                address: at(0x67),
                place: "entry_SYSCALL_64+0x27".to_owned(),
                instruction: "mov %rsp, %cr3".to_owned(),
                loads: PageTable::Kernel,
                store: Some("entry_SYSCALL_64+0xd".to_owned()),
            }],
            sites: vec![
                site(
                    Part::Noinstr,
                    0,
                    "idle+0x4",
                    Patcher::StaticCall,
                    "x86_idle",
                    Some("hlt"),
                    When::Run,
                ),
                site(
                    Part::Noinstr,
                    8,
                    "idle+0x8",
                    Patcher::StaticKey,
                    "mds",
                    None,
                    When::Run,
                ),
                site(
                    Part::Noinstr,
                    9,
                    "idle+0x9",
                    Patcher::StaticKey,
                    "mds",
                    None,
                    When::Run,
                ),
                site(
                    Part::Noinstr,
                    16,
                    "idle+0x10",
                    Patcher::StaticKey,
                    "ro",
                    None,
                    When::Boot,
                ),
            ],
            alternatives: 93,
            memory: vec![used(Part::Entry)],
            offences: vec![Finding {
                what: What::FlagNotSet,
                address: at(0x67),
                place: "entry_SYSCALL_64+0x27".to_owned(),
                instruction: "mov %rsp, %cr3".to_owned(),
                words: "loads the kernel's page table".to_owned(),
                entries: names(&["a", "b", "c", "d"]),
                features: names(&["pti"]),
            }],
            open: vec![Open {
                why: Unknown::Unreached,
                address: at(0x70),
                place: "x+0x1".to_owned(),
                instruction: "mov %rax, %cr3".to_owned(),
                entries: vec![],
            }],
        }
    }

    #[test]
    fn the_conclusion_comes_first_then_offences_then_lists() {
        let expected = "\
Linux version 6.12
1 offence, 1 cannot be told
  flag          kernel_cr3
  CR3 writes    1 in entry text: 1 load the kernel's page table, 0 the user's; followed from 1 entry points with 2 combinations of CPU features, each with PTI
  entry text    0 sites patched at run time, 0 at boot only
  noinstr text  3 sites patched at run time, which need their IPI, 1 at boot only
  alternatives  93 in entry text, applied at boot
  memory        entry text: 0 operands in vmalloc memory, 0 in modules, 3 at other fixed addresses, 26 per-CPU, 59 on the stack; 16 through pointers, which lead where no instruction says

flag-not-set at entry_SYSCALL_64+0x27 (0xffffffff81400067)
      mov %rsp, %cr3
    ! loads the kernel's page table, from a, b, c and 1 more
      with pti

Cannot be told
  0xffffffff81400070 x+0x1: no known entry point leads to this write to CR3
      mov %rax, %cr3

Writes to CR3 in entry text
  0xffffffff81400067 kernel  entry_SYSCALL_64+0x27   mov %rsp, %cr3   flag set at entry_SYSCALL_64+0xd

Patched at run time
  noinstr static key mds
          idle+0x8 idle+0x9
  noinstr static call x86_idle, calls hlt at first
          idle+0x4
";
        assert_eq!(audit(&specimen(), Paint::PLAIN), expected);
    }

    #[test]
    fn a_kernel_without_a_flag_is_said_to_defer_nothing() {
        let mut specimen = specimen();
        specimen.flag = None;
        specimen.offences.clear();
        specimen.open.clear();
        let text = audit(&specimen, Paint::PLAIN);
        assert!(
            text.starts_with("Linux version 6.12\nnothing found\n"),
            "{text}"
        );
        assert!(text.contains("no flag: nothing is deferred"), "{text}");
    }
}
