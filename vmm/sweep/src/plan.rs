//! From the trace of a whole way through the kernel to the points on it.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use ipirig_entry::KernelLayout;
use ipirig_entry::passage::Crossed;
use ipirig_instruction::disassemble_at;
use thiserror::Error;

use crate::name::{PathName, Side};

/// Place of RSP in [`ipirig_instruction::StepRegisters::general`].
pub(crate) const RSP: usize = 4;

/// One half of a way through the kernel, as it was traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPath {
    /// Its name.
    pub name: PathName,
    /// Its instructions, in order.
    pub points: Vec<PlannedPoint>,
}

/// An instruction at which events are to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPoint {
    /// Its number in the path, from 0.
    pub number: usize,
    /// Its number in the whole trace, from 0.
    pub step: usize,
    /// Its address.
    pub rip: u64,
    /// RSP before it.
    pub rsp: u64,
    /// How often it was executed with this RSP before.
    pub skip: usize,
    /// If it is in C code: the first instruction of the assembly that comes after it, and RSP then.
    pub resume: Option<(u64, u64)>,
    /// RFLAGS before it.
    pub rflags: u64,
    /// Its address as `symbol+0xoffset`.
    pub address: String,
    /// The instruction, in the assembler's syntax.
    pub text: String,
}

impl PlannedPath {
    /// The half `name.side` of the way that `trace` is of.
    #[must_use]
    pub fn new(name: PathName, trace: &[Crossed], layout: &KernelLayout) -> Self {
        Self::within(name, trace, 0..trace.len(), layout)
    }

    /// The same of the part `handler` of `trace`.
    #[must_use]
    pub fn within(
        name: PathName,
        trace: &[Crossed],
        handler: Range<usize>,
        layout: &KernelLayout,
    ) -> Self {
        let instrumentable =
            |crossed: &Crossed| layout.place(crossed.step.registers.rip).is_instrumentable();
        let part = trace.get(handler.clone()).unwrap_or_default();
        let range = match name.side {
            Side::In => {
                let first = part.iter().position(instrumentable);
                handler.start..first.map_or(handler.end, |first| handler.start + first)
            }
            // A way that has no such code has no second half.
            Side::Out => match part.iter().rposition(instrumentable) {
                Some(last) => handler.start + last + 1..handler.end,
                None => 0..0,
            },
        };
        let mut before: HashMap<(u64, u64), usize> = HashMap::new();
        let mut points = Vec::new();
        for (step, crossed) in trace.iter().enumerate().skip(handler.start) {
            let (rip, rsp) = place(crossed);
            let seen = before.entry((rip, rsp)).or_default();
            if range.contains(&step) {
                points.push(PlannedPoint {
                    number: step - range.start,
                    step,
                    rip,
                    rsp,
                    skip: *seen,
                    resume: resume(trace, step, layout),
                    rflags: crossed.step.registers.rflags,
                    address: layout.describe(rip),
                    text: disassemble_at(crossed.step.code.bytes(), rip)
                        .unwrap_or_else(|| "(unknown)".to_owned()),
                });
            }
            *seen += 1;
        }
        Self { name, points }
    }
}

impl PlannedPoint {
    /// The first instruction of the way that `trace` is of.
    #[must_use]
    pub fn first(trace: &[Crossed], layout: &KernelLayout) -> Option<Self> {
        Self::at(trace, 0, layout)
    }

    /// The first instrumentable code of the way that `trace` is of: where its way in ends.
    #[must_use]
    pub fn first_instrumentable(trace: &[Crossed], layout: &KernelLayout) -> Option<Self> {
        let mut steps = trace.iter();
        let step = steps.position(|it| layout.place(it.step.registers.rip).is_instrumentable())?;
        Self::at(trace, step, layout)
    }

    /// The instruction `step`, as if it had not been executed before.
    fn at(trace: &[Crossed], step: usize, layout: &KernelLayout) -> Option<Self> {
        let crossed = trace.get(step)?;
        let (rip, rsp) = place(crossed);
        Some(Self {
            number: step,
            step,
            rip,
            rsp,
            skip: 0,
            resume: resume(trace, step, layout),
            rflags: crossed.step.registers.rflags,
            address: layout.describe(rip),
            text: disassemble_at(crossed.step.code.bytes(), rip)
                .unwrap_or_else(|| "(unknown)".to_owned()),
        })
    }
}

pub(crate) fn place(crossed: &Crossed) -> (u64, u64) {
    let registers = &crossed.step.registers;
    (registers.rip, registers.general[RSP])
}

/// The next instruction of the assembly after `step`, if that one is not in it.
fn resume(trace: &[Crossed], step: usize, layout: &KernelLayout) -> Option<(u64, u64)> {
    let assembly = layout.entry_text();
    let in_assembly = |crossed: &&Crossed| assembly.contains(&crossed.step.registers.rip);
    let here = trace.get(step)?;
    if in_assembly(&here) {
        return None;
    }
    trace.get(step..)?.iter().find(in_assembly).map(place)
}

/// A part of a sweep: every `of`th point, from the `index`th on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 1 to `of`.
    pub index: usize,
    /// How many parts there are.
    pub of: usize,
}

impl Shard {
    /// All of it.
    pub const WHOLE: Self = Self { index: 1, of: 1 };

    /// Whether the point that is the `number`th of all, from 0, is in this part.
    #[must_use]
    pub fn has(self, number: usize) -> bool {
        number % self.of.max(1) + 1 == self.index
    }
}

/// Not a part.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("`{0}` is no part of a sweep: INDEX/NUMBER with INDEX from 1 to NUMBER, as in 2/8")]
pub struct ShardError(String);

impl FromStr for Shard {
    type Err = ShardError;

    fn from_str(text: &str) -> Result<Self, ShardError> {
        let shard = text.split_once('/').and_then(|(index, of)| {
            let (index, of) = (index.parse().ok()?, of.parse().ok()?);
            Some(Self { index, of })
        });
        shard
            .filter(|shard| (1..=shard.of).contains(&shard.index))
            .ok_or_else(|| ShardError(text.to_owned()))
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.of)
    }
}
