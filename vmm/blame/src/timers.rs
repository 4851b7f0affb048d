//! What a CPU's timer interrupt was programmed for, by the kernel's timers as they are in its memory when the
//! interrupt comes.
//!
//! High-resolution timers (kernel/time/hrtimer.c) are in a tree for each clock, the soonest first; the interrupt is
//! programmed for the soonest of all. Where that is the tick, which a CPU without one has come only when some timer
//! of the wheel (kernel/time/timer.c) is due, those that are due are told instead.
//!
//! Layouts are those of 64-bit kernels without lock debugging, 6.1 to 7.2. Each is told from the others, and
//! from what is none, by pointers that lead back: a clock to its CPU's clocks, a timer to its clock, an entry of
//! the wheel to what points at it.

use std::ops::Range;

use ipirig_image::{KERNEL_HALF, Symbols};

use crate::base_name;
use crate::kernel::Kernel;
use crate::memory::Memory;

/// Most timers that are told of one interrupt.
pub const MAX_TIMERS: usize = 4;

/// Clocks of a CPU (`HRTIMER_MAX_CLOCK_BASES` of include/linux/hrtimer_defs.h), and the bytes of each, a cache line.
const CLOCKS: usize = 8;
const CLOCK: usize = 64;
/// What is before the first clock has as many lines at most.
const LINES_BEFORE: usize = 4;
/// `struct hrtimer_clock_base`: its index, after the pointer to its CPU's clocks.
const INDEX: usize = 8;
/// `struct hrtimer`: the pointer to its clock. All of it that is read.
const TIMER_CLOCK: usize = 48;
const TIMER: usize = 80;

/// The handler of the tick, by its names: since 6.8, and before.
const TICK: [&str; 2] = ["tick_nohz_handler", "tick_sched_timer"];

/// Where modules may be, behind the kernel (Documentation/arch/x86/x86_64/mm.rst): from here, if its image may have
/// 512 MiB, to there.
const MODULES: Range<u64> = 0xffff_ffff_a000_0000..0xffff_ffff_ff00_0000;
/// Most bytes that a CPU's wheels have (`timer_bases` of kernel/time/timer.c, three with nine levels each), and most of
/// their timers that are looked at.
const WHEELS: usize = 16 << 10;
const WHEEL_TIMERS: usize = 512;
/// `struct timer_list`: the link and the pointer to what points at it, when it is due in jiffies, function, flags.
const ENTRY: usize = 40;
/// Flags of a timer of the wheel (include/linux/timer.h): it may wait, and so does not make an interrupt come; its place
/// in the wheel.
const DEFERRABLE: u64 = 1 << 19;
const PLACE_SHIFT: u32 = 22;
/// Places of each level, and by how much a level is coarser than the one before (`LVL_BITS`, `LVL_CLK_SHIFT`).
const LEVEL_BITS: u32 = 6;
const COARSER_BITS: u32 = 3;
/// Where kernel and modules have their text (Documentation/arch/x86/x86_64/mm.rst): what a timer calls is there.
const TEXT: u64 = 0xffff_ffff_8000_0000;
/// Levels of a wheel (`LVL_DEPTH`), at most.
const LEVELS: u32 = 9;
/// `struct delayed_work`: its work's function is in the word before its timer, whose function is this.
const DELAYED_WORK: &str = "delayed_work_timer_fn";

/// A timer that was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DueTimer {
    /// The function that it calls.
    pub function: u64,
    /// The function of the delayed work that this queues, if it does.
    pub work: Option<u64>,
}

/// What one interrupt was programmed for. None: for nothing that is still there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DueTimers {
    timers: [Option<DueTimer>; MAX_TIMERS],
}

impl DueTimers {
    /// The timers: the first ones, if there were more than [`MAX_TIMERS`].
    pub fn iter(&self) -> impl Iterator<Item = DueTimer> {
        self.timers.iter().copied().flatten()
    }

    fn push(&mut self, timer: DueTimer) {
        if self.iter().any(|other| other == timer) {
            return;
        }
        if let Some(place) = self.timers.iter_mut().find(|place| place.is_none()) {
            *place = Some(timer);
        }
    }
}

/// A timer of a tree, as a kernel lays it out.
struct TreeLayout {
    /// In a clock: the pointer to the first timer of its tree.
    first: usize,
    /// In a timer: when it is due by its clock, in nanoseconds; its function.
    due: usize,
    function: usize,
}

/// Since 7.1 a timer is linked to its neighbours too; before, not.
const TREES: [TreeLayout; 2] = [
    TreeLayout {
        first: 48,
        due: 40,
        function: 72,
    },
    TreeLayout {
        first: 40,
        due: 24,
        function: 40,
    },
];

impl Kernel {
    /// What the timer interrupt that CPU `cpu` is about to take was programmed for. `None`: the kernel's timers are not
    /// where they are known to be.
    #[must_use]
    pub fn due_timers(&self, cpu: usize, memory: &dyn Memory) -> Option<DueTimers> {
        let trees = Trees::read(self.symbols(), cpu, memory)?;
        let mut due = DueTimers::default();
        let is_code = |function: &u64| self.is_code(*function);
        for function in trees.soonest(memory).into_iter().filter(is_code) {
            let name = self.name(function).map(|name| name.function.name);
            let tick = name.is_some_and(|name| TICK.contains(&base_name(name)));
            let mut wheel = if tick {
                self.due_in_wheel(cpu, memory).unwrap_or_default()
            } else {
                Vec::new()
            };
            if wheel.is_empty() {
                wheel.push(DueTimer {
                    function,
                    work: None,
                });
            }
            wheel.into_iter().for_each(|timer| due.push(timer));
        }
        Some(due)
    }

    /// Whether a function may be at `address`: in the kernel's text, or where modules are.
    fn is_code(&self, address: u64) -> bool {
        let at = |name| self.symbols().address(name);
        let text = at("_stext").zip(at("_etext"));
        let in_text = text.is_some_and(|(start, end)| (start..end).contains(&address));
        let behind = at("_end").is_some_and(|end| address >= end);
        in_text || behind && MODULES.contains(&address)
    }

    /// The timers of the wheels of `cpu` that are due, give or take a jiffy: another CPU counts jiffies.
    fn due_in_wheel(&self, cpu: usize, memory: &dyn Memory) -> Option<Vec<DueTimer>> {
        let jiffies = self.symbols().address("jiffies");
        let jiffies = jiffies.or_else(|| self.symbols().address("jiffies_64"))?;
        let jiffies = word(memory, jiffies)?;
        let wheels = per_cpu(self.symbols(), cpu, "timer_bases", memory)?;
        // What comes next has lists of its own.
        let variable = self.symbols().address("timer_bases")?;
        let len = self.symbols().resolve_per_cpu(variable)?.size;
        let mut bytes = vec![0; usize::try_from(len).ok()?.min(WHEELS)];
        if !memory.read(wheels, &mut bytes) {
            return None;
        }
        let mut due = Vec::new();
        let mut seen = 0;
        for (place, head) in (wheels..).step_by(8).zip(bytes.as_chunks::<8>().0) {
            let (mut pointer, mut next) = (place, u64::from_le_bytes(*head));
            while next >= KERNEL_HALF && seen < WHEEL_TIMERS {
                let mut entry = [0; ENTRY];
                // What is no list's head does not point to what points back.
                if !memory.read(next, &mut entry) || at(&entry, 8) != pointer {
                    break;
                }
                seen += 1;
                let function = due_entry(&entry, jiffies);
                if let Some(function) = function.filter(|function| self.is_code(*function)) {
                    due.push(self.entry(next, function, memory));
                }
                (pointer, next) = (next, at(&entry, 0));
            }
        }
        Some(due)
    }

    /// The timer at `address` that calls `function`.
    fn entry(&self, address: u64, function: u64, memory: &dyn Memory) -> DueTimer {
        let name = self.name(function).map(|name| name.function.name);
        let delayed = name.is_some_and(|name| base_name(name) == DELAYED_WORK);
        let work = delayed.then(|| word(memory, address.wrapping_sub(8)));
        let work = work.flatten().filter(|work| *work >= KERNEL_HALF);
        DueTimer { function, work }
    }
}

/// The function of a timer of a wheel, if that is due by `jiffies` or one jiffy later.
fn due_entry(entry: &[u8; ENTRY], jiffies: u64) -> Option<u64> {
    let [due, function, flags] = [16, 24, 32].map(|offset| at(entry, offset));
    let flags = flags & u64::from(u32::MAX);
    let level = (flags >> (PLACE_SHIFT + LEVEL_BITS)) as u32;
    // The head of a list of others' that is behind the wheels leads back as well.
    if flags & DEFERRABLE != 0 || level >= LEVELS || function < TEXT {
        return None;
    }
    // calc_index(): the next moment of the level.
    let coarse = level * COARSER_BITS;
    let due = ((due >> coarse).wrapping_add(1)) << coarse;
    let left = due.wrapping_sub(jiffies).cast_signed();
    (left <= 1).then_some(function)
}

/// The clocks of a CPU.
struct Trees {
    address: u64,
    clocks: [[u8; CLOCK]; CLOCKS],
}

impl Trees {
    fn read(symbols: &Symbols, cpu: usize, memory: &dyn Memory) -> Option<Self> {
        let base = per_cpu(symbols, cpu, "hrtimer_bases", memory)?;
        let mut bytes = [0; CLOCK * (LINES_BEFORE + CLOCKS)];
        if !memory.read(base, &mut bytes) {
            return None;
        }
        let lines = bytes.as_chunks::<CLOCK>().0;
        let is_clock = |(index, line): (usize, &[u8; CLOCK])| {
            let number = at(line, INDEX) & u64::from(u32::MAX);
            at(line, 0) == base && number == index as u64
        };
        let mut places = lines.windows(CLOCKS);
        let place = places.position(|clocks| clocks.iter().enumerate().all(is_clock))?;
        Some(Self {
            address: base.wrapping_add((place * CLOCK) as u64),
            clocks: *lines.get(place..)?.first_chunk()?,
        })
    }

    /// The functions of the timers that are due first.
    fn soonest(&self, memory: &dyn Memory) -> Vec<u64> {
        let mut soonest = i64::MAX;
        let mut functions = Vec::new();
        let addresses = (self.address..).step_by(CLOCK);
        for (clock, address) in self.clocks.iter().zip(addresses) {
            let first = |tree| first_of(tree, clock, address, memory);
            let Some((due, function)) = TREES.iter().find_map(first) else {
                continue;
            };
            if due < soonest {
                soonest = due;
                functions.clear();
            }
            if due == soonest {
                functions.push(function);
            }
        }
        functions
    }
}

/// When the first timer of `clock` is due on the monotonic clock, and its function.
fn first_of(
    tree: &TreeLayout,
    clock: &[u8; CLOCK],
    address: u64,
    memory: &dyn Memory,
) -> Option<(i64, u64)> {
    let mut timer = [0; TIMER];
    let first = Some(at(clock, tree.first)).filter(|first| *first >= KERNEL_HALF)?;
    if !memory.read(first, &mut timer) || at(&timer, TIMER_CLOCK) != address {
        return None;
    }
    // Its offset to the monotonic clock is the last word, but from 6.18 to 7.0, where the function that reads the
    // clock had gone and nothing come in its place.
    let shorter = tree.first == 40 && at(clock, 48) < KERNEL_HALF;
    let offset = at(clock, if shorter { 48 } else { 56 });
    let due = at(&timer, tree.due).wrapping_sub(offset);
    Some((due.cast_signed(), at(&timer, tree.function)))
}

/// Where CPU `cpu` has its own `variable`.
fn per_cpu(symbols: &Symbols, cpu: usize, variable: &str, memory: &dyn Memory) -> Option<u64> {
    let offsets = symbols.address("__per_cpu_offset")?;
    let offset = word(memory, offsets.wrapping_add(8 * cpu as u64))?;
    Some(symbols.address(variable)?.wrapping_add(offset))
}

fn word(memory: &dyn Memory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    let read = memory.read(address, &mut bytes);
    read.then(|| u64::from_le_bytes(bytes))
}

/// The word at an offset; 0 beyond the end.
fn at(bytes: &[u8], offset: usize) -> u64 {
    let rest = bytes.get(offset..).and_then(<[u8]>::first_chunk);
    rest.map_or(0, |word| u64::from_le_bytes(*word))
}

#[cfg(test)]
mod tests;
