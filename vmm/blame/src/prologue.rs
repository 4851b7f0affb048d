//! Has a function set up its frame yet? In a kernel with frame pointers a function that calls
//! nothing needs none, and those that write the ICR are such functions.

use std::collections::HashMap;

use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Register};

use crate::kernel::Kernel;
use crate::memory::Memory;

/// Most bytes from a function's begin that are looked at. A function without a frame is small.
const MAX_CODE: u64 = 1024;
/// Most bytes that a function without a frame may have on the stack: the red zone is not used by
/// kernels, so few registers.
const MAX_PUSHED: i64 = 256;
/// Most places that are remembered.
const MAX_PLACES: usize = 1024;

/// Where the return address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prologue {
    /// Above the saved frame pointer, to which RBP points.
    Framed,
    /// So many bytes above RSP; RBP is still the caller's.
    Frameless(u64),
}

/// What is known of the places where functions were stopped. Code does not change much, so each is
/// looked at once.
#[derive(Debug, Default)]
pub struct Prologues {
    places: HashMap<u64, Prologue>,
}

impl Prologues {
    /// Where the return address is when the kernel is about to execute the instruction at `rip`.
    pub(crate) fn at(&mut self, rip: u64, kernel: &Kernel, memory: &dyn Memory) -> Prologue {
        if let Some(known) = self.places.get(&rip) {
            return *known;
        }
        let found = look(rip, kernel, memory).unwrap_or(Prologue::Framed);
        if self.places.len() < MAX_PLACES {
            self.places.insert(rip, found);
        }
        found
    }
}

fn look(rip: u64, kernel: &Kernel, memory: &dyn Memory) -> Option<Prologue> {
    let offset = kernel.name(rip)?.function.offset;
    if offset > MAX_CODE {
        return None;
    }
    let mut code = vec![0; offset as usize];
    let start = rip.wrapping_sub(offset);
    if !memory.read(start, &mut code) {
        return None;
    }
    let decoder = Decoder::with_ip(64, &code, start, DecoderOptions::NONE);
    // Compilers lay a function out so that its frame is made before it is used, and taken down just
    // before each return.
    let (mut framed, mut taken_down, mut pushed) = (false, false, 0_i64);
    for instruction in decoder {
        if sets_frame(&instruction) {
            framed = true;
        } else if takes_down(&instruction) {
            taken_down = true;
        }
        match instruction.flow_control() {
            FlowControl::Return | FlowControl::UnconditionalBranch => {
                taken_down = false;
                pushed = 0;
            }
            _ => pushed -= i64::from(instruction.stack_pointer_increment()),
        }
    }
    if framed && !taken_down {
        return Some(Prologue::Framed);
    }
    if framed {
        // RBP is the caller's again, and nothing is left but the return.
        return Some(Prologue::Frameless(0));
    }
    let plausible = (0..=MAX_PUSHED).contains(&pushed) && pushed % 8 == 0;
    plausible.then_some(Prologue::Frameless(pushed.unsigned_abs()))
}

/// MOV RBP, RSP.
fn sets_frame(instruction: &Instruction) -> bool {
    matches!(instruction.code(), Code::Mov_r64_rm64 | Code::Mov_rm64_r64)
        && instruction.op0_register() == Register::RBP
        && instruction.op1_register() == Register::RSP
}

/// POP RBP or LEAVE.
fn takes_down(instruction: &Instruction) -> bool {
    match instruction.code() {
        Code::Leaveq => true,
        Code::Pop_r64 => instruction.op0_register() == Register::RBP,
        _ => false,
    }
}
