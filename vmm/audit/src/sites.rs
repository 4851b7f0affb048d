//! Places in entry and noinstr text that the kernel can patch while it runs.

use std::collections::BTreeSet;

use ipirig_image::{Site, SiteKind};
use schemars::JsonSchema;
use serde::Serialize;

use crate::kernel::{Code, Kernel};

/// A part of the kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// `.entry.text`.
    Entry,
    /// `.noinstr.text`.
    Noinstr,
}

/// What patches a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Patcher {
    /// A static key.
    StaticKey,
    /// A static call.
    StaticCall,
    /// ftrace.
    Ftrace,
}

/// When a site can be patched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Only while the kernel boots: the key is read-only afterwards (`__ro_after_init`).
    Boot,
    /// At any time, so that other CPUs must be told at once.
    Run,
    /// The kernel file does not say what is read-only.
    Unknown,
}

/// A place that the kernel can patch.
#[derive(Clone, Debug, PartialEq, Eq, JsonSchema, Serialize)]
pub struct PatchSite {
    /// Where it is.
    pub part: Part,
    /// Link address.
    pub address: u64,
    /// The same as `symbol+0xoffset`.
    pub place: String,
    /// The instruction that the file has there, in the assembler's AT&T syntax.
    pub instruction: String,
    /// What patches it.
    pub patcher: Patcher,
    /// The key, of a static key or a static call.
    pub key: Option<String>,
    /// The function that a static call calls until it is changed.
    pub target: Option<String>,
    /// When it can be patched.
    pub when: When,
    /// Whether it is executed before the CPU has caught up.
    pub danger_zone: bool,
}

/// The sites of both parts, by address.
pub(crate) fn find(kernel: &Kernel, danger_zone: &BTreeSet<u64>) -> Vec<PatchSite> {
    [
        (Part::Entry, &kernel.entry),
        (Part::Noinstr, &kernel.noinstr),
    ]
    .into_iter()
    .flat_map(|(part, code)| {
        kernel
            .sites
            .at(code.range.clone())
            .filter_map(move |site| one(kernel, danger_zone, part, code, site))
    })
    .collect()
}

fn one(
    kernel: &Kernel,
    danger_zone: &BTreeSet<u64>,
    part: Part,
    code: &Code,
    site: &Site,
) -> Option<PatchSite> {
    let (patcher, key) = match site.kind {
        SiteKind::StaticKey { key } => (Patcher::StaticKey, Some(key)),
        SiteKind::StaticCall { key } => (Patcher::StaticCall, Some(key)),
        SiteKind::Ftrace => (Patcher::Ftrace, None),
        SiteKind::Alternative => return None,
    };
    let when = match key.map(|key| kernel.is_read_only(key)) {
        Some(Some(true)) => When::Boot,
        None | Some(Some(false)) => When::Run,
        Some(None) => When::Unknown,
    };
    let target = key
        .filter(|_| patcher == Patcher::StaticCall)
        // `func` comes first in struct static_call_key (include/linux/static_call_types.h).
        .and_then(|key| kernel.word(key))
        .map(|target| match target {
            0 => "nothing".to_owned(),
            target => kernel.place(target),
        });
    Some(PatchSite {
        part,
        address: site.address,
        place: kernel.place(site.address),
        instruction: instruction(code, site.address),
        patcher,
        key: key.map(|key| name(kernel, key)),
        target,
        when,
        danger_zone: danger_zone.contains(&site.address),
    })
}

/// The key's name as the source has it.
fn name(kernel: &Kernel, key: u64) -> String {
    let place = kernel.place(key);
    // STATIC_CALL_KEY_PREFIX (include/linux/static_call_types.h).
    place
        .strip_prefix("__SCK__")
        .map(str::to_owned)
        .unwrap_or(place)
}

/// The instruction that the file has at `address`.
pub(crate) fn instruction(code: &Code, address: u64) -> String {
    code.from(address)
        .and_then(|bytes| ipirig_instruction::disassemble_at(bytes, address))
        .unwrap_or_else(|| "(bad)".to_owned())
}
