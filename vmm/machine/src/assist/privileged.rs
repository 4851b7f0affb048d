//! Instructions that some KVMs run natively in CPL 3 but cannot execute in CPL 0. CPUID cannot
//! hide them there (KVM forces their bits back), so the kernel is told on its command line.

use super::{Finding, Quirk, Remedy};
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

const ROWS: &[Row] = &[
    row("popcnt", &[0xf3, 0x0f, 0xb8, 0xc0], &[], "popcnt"),
    row("rdpid", &[0xf3, 0x0f, 0xc7, 0xf8], &[], "rdpid"),
    row("rdtscp", &[0x0f, 0x01, 0xf9], &[], "rdtscp"),
    // mov eax, 2; invpcid rax, [0x7000], with type 2: everything.
    row(
        "invpcid",
        &[
            0xb8, 0x02, 0x00, 0x00, 0x00, 0x66, 0x0f, 0x38, 0x82, 0x04, 0x25, 0x00, 0x70, 0x00,
            0x00,
        ],
        &[],
        "invpcid",
    ),
    row("stac", &[0x0f, 0x01, 0xcb], &[], "smap"),
    // xor ecx, ecx; rdpkru.
    row("rdpkru", &[0x31, 0xc9, 0x0f, 0x01, 0xee], &[UD, GP], "pku"),
    // mov rax, cr4; or rax, UMIP; mov cr4, rax.
    row(
        "CR4.UMIP",
        &[
            0x0f, 0x20, 0xe0, 0x48, 0x0d, 0x00, 0x08, 0x00, 0x00, 0x0f, 0x22, 0xe0,
        ],
        &[],
        "umip",
    ),
    // xor ecx, ecx; xgetbv.
    row(
        "xgetbv",
        &[0x31, 0xc9, 0x0f, 0x01, 0xd0],
        &[UD, GP],
        "xsave",
    ),
    // mov eax, 0x10; lsl eax, eax: how the kernel's paranoid entry finds its CPU with FSGSBASE.
    row(
        "lsl",
        &[0xb8, 0x10, 0x00, 0x00, 0x00, 0x0f, 0x03, 0xc0],
        &[],
        "fsgsbase",
    ),
    // ldmxcsr [0x7000]: the begin of each use of SSE in the kernel. Without these features its hash
    // functions (7.0 and later use them from the boot on) and checksums do not try.
    row(
        "ldmxcsr",
        &[0x0f, 0xae, 0x14, 0x25, 0x00, 0x70, 0x00, 0x00],
        &[UD],
        "ssse3,sse4_2,sha_ni,pclmulqdq",
    ),
    // mov eax, 0x18; verw ax.
    Row {
        parameters: NO_BUFFER_CLEARING,
        ..row(
            "verw",
            &[0xb8, 0x18, 0x00, 0x00, 0x00, 0x0f, 0x00, 0xe8],
            &[],
            "",
        )
    },
];

const fn row(
    name: &'static str,
    code: &'static [u8],
    refusals: &'static [u8],
    clear: &'static str,
) -> Row {
    Row {
        name,
        code,
        refusals,
        clear,
        parameters: "",
    }
}

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    let mut missing = Vec::new();
    for row in ROWS {
        match prober.ring0(row.code)? {
            Outcome::Halted => {}
            Outcome::Vector(vector) if row.refusals.contains(&vector) => {}
            _ => missing.push(row),
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
