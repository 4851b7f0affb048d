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
    /// Names for `clearcpuid=` (Linux takes names since 5.19), or none.
    clear: &'static str,
    /// Whole parameters for what `clearcpuid=` does not reach, or none.
    parameters: &'static str,
}

/// Mitigations that execute VERW or write MSRs at each exit to user space. Page-table isolation
/// is not among them.
const NO_BUFFER_CLEARING: &str = "mds=off tsx_async_abort=off srbds=off mmio_stale_data=off \
                                  reg_file_data_sampling=off retbleed=off spectre_v2=off";

const ROWS: &[Row] = &[
    Row {
        name: "popcnt",
        code: &[0xf3, 0x0f, 0xb8, 0xc0],
        clear: "popcnt",
        parameters: "",
    },
    Row {
        name: "rdpid",
        code: &[0xf3, 0x0f, 0xc7, 0xf8],
        clear: "rdpid",
        parameters: "",
    },
    Row {
        name: "rdtscp",
        code: &[0x0f, 0x01, 0xf9],
        clear: "rdtscp",
        parameters: "",
    },
    // mov eax, 2; invpcid rax, [0x7000], with type 2: everything.
    Row {
        name: "invpcid",
        code: &[
            0xb8, 0x02, 0x00, 0x00, 0x00, 0x66, 0x0f, 0x38, 0x82, 0x04, 0x25, 0x00, 0x70, 0x00,
            0x00,
        ],
        clear: "invpcid",
        parameters: "",
    },
    Row {
        name: "stac",
        code: &[0x0f, 0x01, 0xcb],
        clear: "smap",
        parameters: "",
    },
    // xor ecx, ecx; rdpkru.
    Row {
        name: "rdpkru",
        code: &[0x31, 0xc9, 0x0f, 0x01, 0xee],
        clear: "pku",
        parameters: "",
    },
    // xor ecx, ecx; xgetbv.
    Row {
        name: "xgetbv",
        code: &[0x31, 0xc9, 0x0f, 0x01, 0xd0],
        clear: "xsave",
        parameters: "",
    },
    // mov eax, 0x10; lsl eax, eax: how the kernel's paranoid entry finds its CPU with FSGSBASE.
    Row {
        name: "lsl",
        code: &[0xb8, 0x10, 0x00, 0x00, 0x00, 0x0f, 0x03, 0xc0],
        clear: "fsgsbase",
        parameters: "",
    },
    // mov eax, 0x18; verw ax.
    Row {
        name: "verw",
        code: &[0xb8, 0x18, 0x00, 0x00, 0x00, 0x0f, 0x00, 0xe8],
        clear: "",
        parameters: NO_BUFFER_CLEARING,
    },
];

fn probe(prober: &Prober<'_>) -> Result<Finding, ProbeError> {
    let mut missing = Vec::new();
    for row in ROWS {
        // #UD (6) is what a CPU without the instruction does, and RDPID is refused that way by
        // some emulators; #GP (13) comes from XGETBV and RDPKRU where CR4 has them off.
        match prober.ring0(row.code)? {
            Outcome::Halted | Outcome::Vector(13) => {}
            Outcome::Vector(6) if !row.needs_cr4() => missing.push(row),
            Outcome::Vector(6) => {}
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

impl Row {
    /// Whether #UD only says that CR4 does not enable the instruction.
    fn needs_cr4(&self) -> bool {
        matches!(self.name, "rdpkru" | "xgetbv")
    }
}

fn parameters(missing: &[&Row]) -> String {
    let clear: Vec<_> = missing
        .iter()
        .map(|row| row.clear)
        .filter(|c| !c.is_empty())
        .collect();
    let mut words = Vec::new();
    if !clear.is_empty() {
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
        let missing: Vec<_> = ROWS
            .iter()
            .filter(|r| ["popcnt", "lsl"].contains(&r.name))
            .collect();
        assert_eq!(parameters(&missing), "clearcpuid=popcnt,fsgsbase");
        let verw: Vec<_> = ROWS.iter().filter(|r| r.name == "verw").collect();
        assert_eq!(parameters(&verw), NO_BUFFER_CLEARING);
        assert_eq!(parameters(&[]), "");
    }
}
