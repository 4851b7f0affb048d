//! Kernels made by hand, right ones and such with planted bugs.

mod fixture;

use std::fs;

use fixture::{Bug, Without, vmlinux};
use proptest::prelude::*;
use schemars::generate::SchemaSettings;
use tempfile::TempDir;

use super::*;

fn audited(file: &[u8]) -> Result<Audit, AuditError> {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("vmlinux");
    fs::write(&path, file).unwrap();
    audit(&path)
}

fn with(bug: Bug) -> Audit {
    audited(&vmlinux(bug, Without::Nothing)).unwrap()
}

/// Kind, function and entry points of each offence.
fn offences(audit: &Audit) -> Vec<(What, &str, Vec<&str>)> {
    audit
        .offences
        .iter()
        .map(|offence| {
            let function = offence.place.split('+').next().unwrap_or_default();
            let entries = offence.entries.iter().map(String::as_str).collect();
            (offence.what, function, entries)
        })
        .collect()
}

#[test]
fn a_right_kernel_has_no_offence_and_each_switch_its_store() {
    let audit = with(Bug::None);
    assert_eq!(
        (audit.offences.as_slice(), audit.open.as_slice()),
        (&[][..], &[][..])
    );
    assert_eq!(audit.flag.as_deref(), Some("kernel_cr3"));
    let entries = [
        "entry_SYSCALL_64",
        "asm_exc_page_fault",
        "asm_exc_double_fault",
    ];
    assert_eq!(audit.entries, entries);
    let combinations = [vec!["pti"], vec!["pcid", "pti"]];
    assert_eq!(audit.combinations, combinations);
    let switches: Vec<_> = audit
        .switches
        .iter()
        .map(|switch| {
            let function = switch.place.split('+').next().unwrap_or_default();
            (function, switch.loads, switch.store.is_some())
        })
        .collect();
    assert_eq!(
        switches,
        [
            ("entry_SYSCALL_64", PageTable::Kernel, true),
            ("syscall_return_via_sysret", PageTable::User, true),
            ("asm_exc_page_fault", PageTable::Kernel, true),
            ("asm_exc_page_fault", PageTable::User, true),
            ("asm_exc_double_fault", PageTable::User, true),
            // Before GS is the kernel's; the write after it has the store.
            ("paranoid_entry", PageTable::Kernel, false),
            ("paranoid_entry", PageTable::Kernel, true),
        ]
    );
}

#[test]
fn each_planted_bug_of_the_flag_is_found_where_it_is() {
    let syscall = || vec!["entry_SYSCALL_64"];
    let double_fault = || vec!["asm_exc_double_fault"];
    let planted = [
        (Bug::NotSet, What::FlagNotSet, "entry_SYSCALL_64", syscall()),
        (
            Bug::SetLate,
            What::NoCatchUpAfterFlag,
            "entry_SYSCALL_64",
            syscall(),
        ),
        (
            Bug::ClearedEarly,
            What::FlagClearedEarly,
            "syscall_return_via_sysret",
            syscall(),
        ),
        (
            Bug::NotCleared,
            What::FlagNotCleared,
            "syscall_return_via_sysret",
            syscall(),
        ),
        (
            Bug::UserGs,
            What::FlagOnUserGs,
            "paranoid_entry",
            double_fault(),
        ),
        (
            Bug::NoSwitch,
            What::NoKernelTable,
            "entry_SYSCALL_64",
            syscall(),
        ),
    ];
    for (bug, what, function, entries) in planted {
        assert_eq!(offences(&with(bug)), [(what, function, entries)], "{bug:?}");
    }
    // Found set and cleared, or found clear and left set: the flag is not what the page table is.
    let derived = with(Bug::Derived);
    let kinds: Vec<What> = derived
        .offences
        .iter()
        .map(|offence| offence.what)
        .collect();
    assert_eq!(kinds, [What::FlagNotRestored]);
    let unclear = offences(&with(Bug::Unclear))
        .first()
        .map(|offence| offence.0);
    assert_eq!(unclear, Some(What::FlagUnclear));
}

#[test]
fn an_offence_says_what_where_and_with_which_features() {
    let audit = with(Bug::SetLate);
    let [offence] = audit.offences.as_slice() else {
        unreachable!("{:?}", audit.offences);
    };
    let switch = &audit.switches[0];
    assert_eq!(switch.instruction, "mov %rsp, %cr3");
    let expected = Finding {
        what: What::NoCatchUpAfterFlag,
        address: switch.address + 3,
        place: format!(
            "entry_SYSCALL_64+{:#x}",
            offence.address - (fixture::TEXT + 0x100)
        ),
        instruction: "movb $1, %gs:0x15000".to_owned(),
        words: format!(
            "sets the flag after the kernel's page table was loaded, at {}",
            switch.place
        ),
        entries: vec!["entry_SYSCALL_64".to_owned()],
        features: vec!["pti".to_owned()],
    };
    assert_eq!(*offence, expected);
}

#[test]
fn a_static_key_that_can_change_is_an_offence_in_entry_text_only() {
    let in_c = PatchSite {
        part: Part::Noinstr,
        address: fixture::TEXT,
        place: "do_syscall_64".to_owned(),
        instruction: "xchg %ax, %ax".to_owned(),
        patcher: Patcher::StaticKey,
        key: Some("run_key".to_owned()),
        target: None,
        when: When::Run,
        danger_zone: false,
    };
    assert_eq!(with(Bug::None).sites, [in_c]);
    let run = with(Bug::StaticKey { run: true });
    let keys: Vec<_> = run
        .offences
        .iter()
        .map(|offence| (offence.what, offence.words.as_str()))
        .collect();
    let words = "can be patched at run time when static key run_key changes, and is executed before \
                 the CPU has caught up";
    assert_eq!(keys, [(What::StaticKey, words); 2]);
    let boot = with(Bug::StaticKey { run: false });
    assert_eq!(boot.offences, []);
    let when: Vec<When> = boot.sites.iter().map(|site| site.when).collect();
    assert_eq!(when, [When::Boot, When::Boot, When::Run]);
}

#[test]
fn fixed_addresses_in_vmalloc_memory_and_in_modules_are_offences() {
    let audit = with(Bug::Vmalloc);
    assert_eq!(
        offences(&audit),
        [
            (What::Vmalloc, "asm_load_gs_index", vec![]),
            (What::ModuleMemory, "asm_load_gs_index", vec![]),
        ]
    );
    let addresses: Vec<u64> = audit
        .offences
        .iter()
        .map(|offence| offence.address)
        .collect();
    let entry = &audit.memory[0];
    assert_eq!(
        [entry.vmalloc.clone(), entry.modules.clone()].concat(),
        addresses
    );
}

#[test]
fn what_cannot_be_told_is_said() {
    let open = |bug| -> Vec<(Unknown, String)> {
        let audit = with(bug);
        assert_eq!(audit.offences, [], "{bug:?}");
        audit
            .open
            .into_iter()
            .map(|open| (open.why, open.instruction))
            .collect()
    };
    let pointer = (Unknown::PerCpuPointer, "incq (%rax)".to_owned());
    assert_eq!(open(Bug::Pointer), [pointer]);
    let unreached = (Unknown::Unreached, "mov %rax, %cr3".to_owned());
    assert_eq!(open(Bug::Unreached), [unreached]);
}

#[test]
fn more_ways_than_can_be_followed_are_said_and_not_followed() {
    let audit = with(Bug::Ways);
    let whys: Vec<_> = audit
        .open
        .iter()
        .map(|open| (open.why, open.place.as_str()))
        .collect();
    assert!(
        whys.contains(&(Unknown::TooMuch, "entry_SYSCALL_64")),
        "{whys:?}"
    );
}

#[test]
fn without_a_flag_switches_are_listed_and_not_judged() {
    for bug in [
        Bug::None,
        Bug::NotSet,
        Bug::SetLate,
        Bug::ClearedEarly,
        Bug::NotCleared,
    ] {
        let audit = audited(&vmlinux(bug, Without::Flag)).unwrap();
        assert_eq!((audit.flag, audit.offences), (None, vec![]), "{bug:?}");
        let stores = audit
            .switches
            .iter()
            .filter(|switch| switch.store.is_some());
        assert_eq!((audit.switches.len(), stores.count()), (7, 0));
    }
    // What can be patched there is told all the same.
    let key = audited(&vmlinux(Bug::StaticKey { run: true }, Without::Flag)).unwrap();
    assert!(
        key.offences
            .iter()
            .all(|offence| offence.what == What::StaticKey)
    );
    assert_eq!(key.offences.len(), 2);
}

#[test]
fn a_file_that_lacks_what_is_needed_is_told_from_a_damaged_one() {
    let failed = |file: &[u8]| {
        let error = audited(file).unwrap_err();
        (error.is_lack(), error.to_string())
    };
    let kernel = |without| vmlinux(Bug::None, without);
    assert_eq!(
        failed(&kernel(Without::Symbols)),
        (
            true,
            "the kernel file has no symbol `__entry_text_start`; give the vmlinux, not stripped"
                .to_owned()
        )
    );
    let (lack, words) = failed(&kernel(Without::Bytes));
    assert!(lack && words.contains("give the vmlinux itself"), "{words}");
    assert!(failed(b"MZ").0);
    let mut cut = kernel(Without::Nothing);
    cut.truncate(cut.len() - 64);
    assert!(!failed(&cut).0);
}

#[test]
fn the_same_file_gives_the_same_wherever_it_is() {
    let file = vmlinux(Bug::StaticKey { run: true }, Without::Nothing);
    let json = || serde_json::to_string(&audited(&file).unwrap()).unwrap();
    assert_eq!(json(), json());
}

#[test]
fn what_is_written_fits_its_schema() {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = settings.into_generator().into_root_schema_for::<Audit>();
    let validator = jsonschema::validator_for(schema.as_value()).unwrap();
    for bug in [
        Bug::None,
        Bug::SetLate,
        Bug::StaticKey { run: true },
        Bug::Pointer,
    ] {
        let json = serde_json::to_value(with(bug)).unwrap();
        assert!(validator.is_valid(&json), "{json}");
    }
    let mut json = serde_json::to_value(with(Bug::None)).unwrap();
    json["offences"] = serde_json::json!([{}]);
    assert!(!validator.is_valid(&json));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Damage anywhere: tables, code, symbols and headers. What comes of it is bounded by the file: no
    /// more sites than the tables have entries, no more switches than there are instructions.
    #[test]
    fn no_file_makes_the_audit_panic_or_grow(
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..16),
    ) {
        let mut file = vmlinux(Bug::StaticKey { run: true }, Without::Nothing);
        for (place, byte) in damage {
            let place = place.index(file.len());
            file[place] = byte;
        }
        if let Ok(audit) = audited(&file) {
            prop_assert!(audit.sites.len() <= file.len());
            prop_assert!(audit.switches.len() <= file.len());
            let found = audit.offences.len() + audit.open.len();
            prop_assert!(found <= 32 * file.len());
            prop_assert!(audit.combinations.len() <= 70);
        }
    }

    /// Any bytes for entry code.
    #[test]
    fn no_code_makes_the_audit_panic(
        code in proptest::collection::vec(any::<u8>(), 1..0x200),
    ) {
        let mut file = vmlinux(Bug::None, Without::Nothing);
        // After the ELF header and noinstr text.
        let start = 64 + 0x100;
        file[start..start + code.len()].copy_from_slice(&code);
        let _ = audited(&file);
    }
}
