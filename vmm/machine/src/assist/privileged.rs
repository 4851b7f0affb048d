//! Instructions that some KVMs run natively in CPL 3 but cannot execute in CPL 0. CPUID cannot
//! hide them there (KVM forces their bits back), so the kernel is told on its command line.

use super::quirk::{Finding, Quirk, Remedy};
use crate::feature::{Feature, Register};
use crate::probe::{Outcome, ProbeError, Prober};

pub(super) const QUIRK: Quirk = Quirk {
    name: "privileged-instructions",
    what: "instructions that user code may use also execute in CPL 0",
    probe,
};

/// An instruction and the kernel parameter that makes Linux do without it.
struct Row {
    name: &'static str,
    code: &'static [u8],
    /// The feature with which guests come to use it; `None` where each x86-64 CPU has it. What CPUID
    /// does not offer them is the CPU's lack, not a quirk.
    feature: Option<Feature>,
    /// Exceptions that only say that the CPU or CR4 has it off: the kernel then finds that out.
    refusals: &'static [u8],
    /// A name for `clearcpuid=` (Linux takes names since 5.19), or none.
    clear: &'static str,
    /// Whole parameters for what `clearcpuid=` does not reach, or none.
    parameters: &'static str,
}

/// Mitigations that execute VERW or write MSRs at each exit to user space. Page-table isolation
/// is not among them.
const NO_BUFFER_CLEARING: &str = "mds=off tsx_async_abort=off srbds=off mmio_stale_data=off \
                                  reg_file_data_sampling=off tsa=off retbleed=off spectre_v2=off";

/// Where CPL 0 is emulated, a REP MOVSB is a step a byte. Without these the kernel copies and clears
/// by words.
const FAST_STRINGS: &str = "erms,fsrm,fsrs";

const UD: u8 = 6;
const GP: u8 = 13;

// The features are those of SDM vol. 2, CPUID; RDTSCP's is AMD's too (APM vol. 3, appendix E).
const ROWS: &[Row] = &[
    row(
        "popcnt",
        &[0xf3, 0x0f, 0xb8, 0xc0],
        Feature::new(1, Register::Ecx, 23),
        "popcnt",
    ),
    row(
        "rdpid",
        &[0xf3, 0x0f, 0xc7, 0xf8],
        Feature::new(7, Register::Ecx, 22),
        "rdpid",
    ),
    row(
        "rdtscp",
        &[0x0f, 0x01, 0xf9],
        Feature::new(0x8000_0001, Register::Edx, 27),
        "rdtscp",
    ),
    // mov eax, 2; invpcid rax, [0x7000], with type 2: everything.
    row(
        "invpcid",
        &[
            0xb8, 0x02, 0x00, 0x00, 0x00, 0x66, 0x0f, 0x38, 0x82, 0x04, 0x25, 0x00, 0x70, 0x00,
            0x00,
        ],
        Feature::new(7, Register::Ebx, 10),
        "invpcid",
    ),
    row(
        "stac",
        &[0x0f, 0x01, 0xcb],
        Feature::new(7, Register::Ebx, 20),
        "smap",
    ),
    // xor ecx, ecx; rdpkru.
    Row {
        refusals: &[UD, GP],
        ..row(
            "rdpkru",
            &[0x31, 0xc9, 0x0f, 0x01, 0xee],
            Feature::new(7, Register::Ecx, 3),
            "pku",
        )
    },
    // mov rax, cr4; or rax, UMIP; mov cr4, rax.
    row(
        "CR4.UMIP",
        &[
            0x0f, 0x20, 0xe0, 0x48, 0x0d, 0x00, 0x08, 0x00, 0x00, 0x0f, 0x22, 0xe0,
        ],
        Feature::new(7, Register::Ecx, 2),
        "umip",
    ),
    // xor ecx, ecx; xgetbv.
    Row {
        refusals: &[UD, GP],
        ..row(
            "xgetbv",
            &[0x31, 0xc9, 0x0f, 0x01, 0xd0],
            Feature::new(1, Register::Ecx, 26),
            "xsave",
        )
    },
    // mov eax, 0x10; lsl eax, eax: how the kernel's paranoid entry finds its CPU with FSGSBASE.
    row(
        "lsl",
        &[0xb8, 0x10, 0x00, 0x00, 0x00, 0x0f, 0x03, 0xc0],
        Feature::new(7, Register::Ebx, 0),
        "fsgsbase",
    ),
    // ldmxcsr [0x7000]: the begin of each use of SSE in the kernel. Without these features its hash
    // functions (7.0 and later use them from the boot on) and checksums do not try.
    Row {
        refusals: &[UD],
        ..row(
            "ldmxcsr",
            &[0x0f, 0xae, 0x14, 0x25, 0x00, 0x70, 0x00, 0x00],
            Feature::new(1, Register::Edx, 25),
            "ssse3,sse4_2,sha_ni,pclmulqdq",
        )
    },
    // mov eax, 0x18; verw ax.
    Row {
        name: "verw",
        code: &[0xb8, 0x18, 0x00, 0x00, 0x00, 0x0f, 0x00, 0xe8],
        feature: None,
        refusals: &[],
        clear: "",
        parameters: NO_BUFFER_CLEARING,
    },
];

const fn row(
    name: &'static str,
    code: &'static [u8],
    feature: Feature,
    clear: &'static str,
) -> Row {
    Row {
        name,
        code,
        feature: Some(feature),
        refusals: &[],
        clear,
        parameters: "",
    }
}

impl Row {
    /// Whether an instruction that ended like this is one that guests are offered and KVM cannot execute.
    /// `offered` says what guests see in CPUID, and is asked only where that decides.
    fn is_missing<E>(
        &self,
        outcome: &Outcome,
        offered: impl FnOnce(Feature) -> Result<bool, E>,
    ) -> Result<bool, E> {
        match outcome {
            Outcome::Halted => Ok(false),
            Outcome::Vector(vector) if self.refusals.contains(vector) => Ok(false),
            _ => self.feature.map_or(Ok(true), offered),
        }
    }
}

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    let mut missing = Vec::new();
    for row in ROWS {
        let outcome = prober.ring0(row.code)?;
        if row.is_missing(&outcome, |feature| prober.offers(feature))? {
            missing.push(row);
        }
    }
    if missing.is_empty() {
        return Ok(Finding {
            text: "all do".into(),
            remedy: None,
        });
    }
    let names: Vec<_> = missing.iter().map(|row| row.name).collect();
    Ok(Finding {
        text: format!("not {}", names.join(", ")),
        remedy: Some(Remedy {
            text: "the kernel is told to do without them",
            cmdline: parameters(&missing),
            ..Remedy::default()
        }),
    })
}

/// The kernel takes the last `clearcpuid=` only, and 127 characters of it
/// (arch/x86/kernel/cpu/common.c).
fn parameters(missing: &[&Row]) -> String {
    let mut clear: Vec<_> = missing
        .iter()
        .map(|row| row.clear)
        .filter(|c| !c.is_empty())
        .collect();
    let mut words = Vec::new();
    if !clear.is_empty() {
        clear.push(FAST_STRINGS);
        words.push(format!("clearcpuid={}", clear.join(",")));
    }
    words.extend(
        missing
            .iter()
            .map(|row| row.parameters.to_owned())
            .filter(|p| !p.is_empty()),
    );
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_names_what_is_missing_and_nothing_else() {
        let pick = |names: &[&str]| -> Vec<_> {
            ROWS.iter()
                .filter(|row| names.contains(&row.name))
                .collect()
        };
        assert_eq!(
            parameters(&pick(&["popcnt", "lsl"])),
            "clearcpuid=popcnt,fsgsbase,erms,fsrm,fsrs"
        );
        assert_eq!(parameters(&pick(&["verw"])), NO_BUFFER_CLEARING);
        assert_eq!(parameters(&[]), "");
    }

    #[test]
    fn what_the_cpu_lacks_is_no_quirk_and_what_it_offers_and_kvm_cannot_execute_is() {
        let missing = |outcome: &Outcome, offered: bool| -> Vec<&str> {
            let is = |row: &&Row| row.is_missing(outcome, |_| Ok::<bool, ()>(offered)) == Ok(true);
            ROWS.iter().filter(is).map(|row| row.name).collect()
        };
        // VERW is as old as protected mode: CPUID says nothing of it.
        assert_eq!(missing(&Outcome::Vector(UD), false), ["verw"]);
        assert_eq!(missing(&Outcome::Vector(GP), false), ["verw"]);
        assert_eq!(missing(&Outcome::Halted, true), [""; 0]);
        let all: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(missing(&Outcome::NotEmulated(vec![]), true), all);
        let refused = ["rdpkru", "xgetbv", "ldmxcsr"];
        let others: Vec<&str> = all.into_iter().filter(|n| !refused.contains(n)).collect();
        assert_eq!(missing(&Outcome::Vector(UD), true), others);
    }

    #[test]
    fn all_of_it_fits_what_the_kernel_reads() {
        let all: Vec<_> = ROWS.iter().collect();
        let line = parameters(&all);
        let clear = line
            .split(' ')
            .next()
            .unwrap()
            .strip_prefix("clearcpuid=")
            .unwrap();
        assert!(clear.len() <= 127, "{clear}");
    }
}
