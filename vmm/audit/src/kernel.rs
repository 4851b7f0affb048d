//! What the audit takes from a vmlinux.

use std::collections::BTreeMap;
use std::ops::Range;

use ipirig_entry::layout::FLAGS;
use ipirig_image::{
    Alternative, Branch, Image, ImageError, Sites, SitesError, Symbols, SymbolsError,
};
use thiserror::Error;

/// X86_FEATURE_PTI and X86_FEATURE_PCID, where the kernel has no names of features
/// (arch/x86/include/asm/cpufeatures.h; the same from 4.15 on).
const PTI: u16 = 7 * 32 + 11;
const PCID: u16 = 4 * 32 + 17;
/// Most features that the kernel has names for, bits of NCAPINTS words.
const FEATURES_MAX: u64 = 64 * 32;
/// Longest name of a feature, and longest text of `linux_banner`.
const NAME_MAX: u64 = 32;
const BANNER_MAX: u64 = 512;
/// Most bytes of entry text, and of noinstr text. A kernel with everything built in has an eighth.
const TEXT_MAX: u64 = 2 << 20;

/// Why a vmlinux cannot be audited.
#[derive(Debug, Error)]
pub enum AuditError {
    /// It cannot be read, is no vmlinux, or is damaged.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// One of its tables of patched places cannot be understood.
    #[error(transparent)]
    Sites(#[from] SitesError),
    /// A symbol is missing, as in a stripped kernel.
    #[error("the kernel file has no symbol `{name}`; give the vmlinux, not stripped")]
    NoSymbol {
        /// Its name.
        name: &'static str,
    },
    /// It has symbols, but no code: the debug information of a kernel alone.
    #[error("the kernel file has no bytes for {what}; give the vmlinux itself")]
    NoBytes {
        /// For which part.
        what: &'static str,
    },
    /// Symbols that cannot be right.
    #[error("the kernel file is damaged: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
    },
}

impl AuditError {
    /// Whether the file lacks what is needed, but is not damaged.
    #[must_use]
    pub fn is_lack(&self) -> bool {
        matches!(
            self,
            Self::Image(ImageError::Symbols(SymbolsError::NotElf { .. }))
                | Self::NoSymbol { .. }
                | Self::NoBytes { .. }
        )
    }
}

/// Code of one part of the kernel.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) range: Range<u64>,
    pub(crate) bytes: Vec<u8>,
}

impl Code {
    /// The bytes from `address` on.
    pub(crate) fn from(&self, address: u64) -> Option<&[u8]> {
        let offset = usize::try_from(address.checked_sub(self.range.start)?).ok()?;
        self.bytes.get(offset..).filter(|bytes| !bytes.is_empty())
    }
}

/// The per-CPU byte by which senders decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KnownFlag {
    pub(crate) name: &'static str,
    /// What instructions have for its address, relative to GS.
    pub(crate) address: u64,
}

/// A kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    image: Image,
    pub(crate) entry: Code,
    pub(crate) noinstr: Code,
    /// Of entry text, as they are applied.
    pub(crate) alternatives: Vec<Alternative>,
    /// What replaces them, by link address.
    pub(crate) replacements: BTreeMap<u64, Vec<u8>>,
    /// Where branches of static keys in entry text go.
    pub(crate) branches: BTreeMap<u64, u64>,
    pub(crate) sites: Sites,
    pub(crate) flag: Option<KnownFlag>,
    pub(crate) pti: u16,
    pub(crate) pcid: u16,
    /// Memory that is read-only once the kernel has booted.
    read_only: Vec<Range<u64>>,
    thunks: Range<u64>,
}

impl Kernel {
    pub(crate) fn new(image: Image) -> Result<Self, AuditError> {
        let part = |what, start, end| code(&image, what, start, end);
        let entry = part("entry text", "__entry_text_start", "__entry_text_end")?;
        let noinstr = part("noinstr text", "__noinstr_text_start", "__noinstr_text_end")?;
        let sites = Sites::read(&image)?;
        let alternatives: Vec<Alternative> = Alternative::read_all(&image)?
            .into_iter()
            .filter(|alternative| entry.range.contains(&alternative.address))
            .collect();
        let mut replacements = BTreeMap::new();
        for alternative in &alternatives {
            let start = alternative.replacement;
            let end = start.saturating_add(alternative.replacement_len.into());
            let bytes = image.bytes(start..end)?;
            replacements.insert(start, bytes.unwrap_or_default());
        }
        let branches = Branch::read_all(&image)?
            .into_iter()
            .filter(|branch| entry.range.contains(&branch.address))
            .map(|branch| (branch.address, branch.target))
            .collect();
        let symbols = image.symbols();
        let range = |start, end| Some(symbols.address(start)?..symbols.address(end)?);
        let read_only = [
            ("__start_ro_after_init", "__end_ro_after_init"),
            ("__start_rodata", "__end_rodata"),
        ];
        let read_only = read_only
            .into_iter()
            .filter_map(|(a, b)| range(a, b))
            .collect();
        let thunks = range("__indirect_thunk_start", "__indirect_thunk_end");
        let flag = FLAGS.into_iter().find_map(|name| {
            let address = symbols.address(name)?;
            Some(KnownFlag { name, address })
        });
        let names = feature_names(&image);
        let number = |name: &str, known: u16| {
            let found = names.iter().find(|(_, feature)| *feature == name);
            found.map_or(known, |(number, _)| *number)
        };
        Ok(Self {
            pti: number("pti", PTI),
            pcid: number("pcid", PCID),
            thunks: thunks.unwrap_or_default(),
            image,
            entry,
            noinstr,
            alternatives,
            replacements,
            branches,
            sites,
            flag,
            read_only,
        })
    }

    pub(crate) fn symbols(&self) -> &Symbols {
        self.image.symbols()
    }

    /// `symbol+0xoffset`, or the number.
    pub(crate) fn place(&self, address: u64) -> String {
        match self.symbols().resolve(address) {
            Some(found) if found.offset == 0 => found.name.to_owned(),
            Some(found) => format!("{}+{:#x}", found.name, found.offset),
            None => format!("{address:#x}"),
        }
    }

    /// Whether nothing can change what is at `address` once the kernel has booted. None: the kernel
    /// file does not say what is read-only.
    pub(crate) fn is_read_only(&self, address: u64) -> Option<bool> {
        if self.read_only.is_empty() {
            return None;
        }
        Some(self.read_only.iter().any(|range| range.contains(&address)))
    }

    /// Whether `address` is in one of the thunks that returns and indirect calls go through
    /// (arch/x86/lib/retpoline.S), which the entry code may use at any time.
    pub(crate) fn is_thunk(&self, address: u64) -> bool {
        self.thunks.contains(&address)
    }

    /// The 64-bit value that the file has at `address`.
    pub(crate) fn word(&self, address: u64) -> Option<u64> {
        word(&self.image, address)
    }

    /// What the kernel prints first when it boots.
    pub(crate) fn banner(&self) -> Option<String> {
        let at = self.symbols().address("linux_banner")?;
        text(&self.image, at, BANNER_MAX)
    }

    /// The features that decide alternatives in entry text, by number.
    pub(crate) fn features(&self) -> Vec<u16> {
        let mut features: Vec<u16> = self.alternatives.iter().map(|a| a.feature).collect();
        features.sort_unstable();
        features.dedup();
        features
    }

    /// The name of `feature` as /proc/cpuinfo has it, or its number as cpufeatures.h writes it. Bugs
    /// are numbered after the features.
    pub(crate) fn feature_name(&self, feature: u16) -> String {
        let count = u16::try_from(feature_count(&self.image)).unwrap_or_default();
        let name = match feature.checked_sub(count) {
            None => feature_at(&self.image, "x86_cap_flags", feature),
            Some(bug) => {
                feature_at(&self.image, "x86_bug_flags", bug).map(|bug| format!("bug {bug}"))
            }
        };
        name.unwrap_or_else(|| format!("feature {}*32+{}", feature / 32, feature % 32))
    }
}

fn code(
    image: &Image,
    what: &'static str,
    start: &'static str,
    end: &'static str,
) -> Result<Code, AuditError> {
    let address = |name| {
        let address = image.symbols().address(name);
        address.ok_or(AuditError::NoSymbol { name })
    };
    let range = address(start)?..address(end)?;
    if range
        .end
        .checked_sub(range.start)
        .is_none_or(|len| len > TEXT_MAX)
    {
        let what = "its entry or noinstr text ends before it starts, or is too long";
        return Err(AuditError::Damaged { what });
    }
    if range.is_empty() {
        return Err(AuditError::NoBytes { what });
    }
    match image.bytes(range.clone())? {
        Some(bytes) if image.is_code(&range) => Ok(Code { range, bytes }),
        _ => Err(AuditError::NoBytes { what }),
    }
}

/// The names of the features PTI and PCID, or none in a kernel without CONFIG_X86_FEATURE_NAMES.
fn feature_names(image: &Image) -> Vec<(u16, String)> {
    (0..feature_count(image) as u16)
        .filter_map(|number| Some((number, feature_at(image, "x86_cap_flags", number)?)))
        .filter(|(_, name)| name == "pti" || name == "pcid")
        .collect()
}

/// How many features the kernel has names for: NCAPINTS words of them.
fn feature_count(image: &Image) -> u64 {
    let symbols = image.symbols();
    let table = symbols.address("x86_cap_flags");
    let size = table
        .and_then(|table| symbols.resolve(table))
        .map_or(0, |found| found.size);
    // Whole words; what is left was put in to align what comes next.
    (size / 8 / 32 * 32).min(FEATURES_MAX)
}

/// An entry of a table of names (made by arch/x86/kernel/cpu/mkcapflags.sh).
fn feature_at(image: &Image, table: &str, number: u16) -> Option<String> {
    let table = image.symbols().address(table)?;
    let pointer = word(image, table.checked_add(u64::from(number) * 8)?)?;
    text(image, pointer, NAME_MAX)
}

fn word(image: &Image, address: u64) -> Option<u64> {
    let bytes = image.bytes(address..address.checked_add(8)?).ok()??;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The text at `address` up to a NUL, if it is printable ASCII of at most `longest` bytes.
fn text(image: &Image, address: u64, longest: u64) -> Option<String> {
    let mut text = String::new();
    for at in address..address.checked_add(longest)? {
        match image.bytes(at..at.checked_add(1)?).ok()??.as_slice() {
            [0] | [b'\n'] => return (!text.is_empty()).then_some(text),
            [byte @ b' '..=b'~'] => text.push(char::from(*byte)),
            _ => return None,
        }
    }
    None
}
