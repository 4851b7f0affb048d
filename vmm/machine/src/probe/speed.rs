//! How fast a guest's instructions are, at either privilege level.

use super::{Outcome, ProbeError, Prober};
use crate::sys;

/// `mov ecx, LOOPS; 1: dec ecx; jnz 1b`: few enough to be interpreted.
const LOOPS: u32 = 4000;
/// So many that what it takes to come and go, a millisecond on some hosts, does not count.
const LONG: u32 = 40_000;
/// Instructions of a turn.
const TURN: f64 = 2.0;
const TRIES: usize = 3;
/// #GP: what HLT raises in CPL 3.
const GP: u8 = 13;

/// Nanoseconds that an instruction takes, the best of a few tries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Speed {
    /// In CPL 0, with its share of coming and going.
    pub(crate) kernel_ns: f64,
    /// In CPL 3, with the same.
    pub(crate) user_ns: f64,
    /// In CPL 3 alone.
    pub(crate) lasting_user_ns: f64,
}

impl Speed {
    /// Millions of instructions a second.
    pub(crate) fn millions(ns: f64) -> f64 {
        1e3 / ns
    }
}

impl Prober<'_> {
    /// How fast guests are. `Err`: one did not come to its end.
    pub(crate) fn speed(&self) -> Result<Result<Speed, Outcome>, ProbeError> {
        if let Some(known) = self.speed.get() {
            return Ok(known.clone());
        }
        let found = self.measure()?;
        Ok(self.speed.get_or_init(|| found).clone())
    }

    fn measure(&self) -> Result<Result<Speed, Outcome>, ProbeError> {
        let gp = Outcome::Vector(GP);
        let in_user = |loops| self.best(loops, &gp, |code| self.prepare_ring3(code));
        let kernel = self.best(LOOPS, &Outcome::Halted, |code| self.prepare_ring0(code))?;
        let (user, lasting) = (in_user(LOOPS)?, in_user(LONG)?);
        Ok((|| {
            Ok(Speed {
                kernel_ns: kernel?,
                user_ns: user?,
                lasting_user_ns: lasting?,
            })
        })())
    }

    fn best(
        &self,
        loops: u32,
        end: &Outcome,
        prepare: impl Fn(&[u8]) -> Result<super::Guest, ProbeError>,
    ) -> Result<Result<f64, Outcome>, ProbeError> {
        let mut code = [0xb9, 0, 0, 0, 0, 0xff, 0xc9, 0x75, 0xfc];
        code[1..5].copy_from_slice(&loops.to_le_bytes());
        let mut best = f64::INFINITY;
        for _ in 0..TRIES {
            let mut guest = prepare(&code)?;
            // What others have of the CPU meanwhile is no speed of a guest.
            let start = sys::thread_time();
            let outcome = guest.run()?;
            // Of a few seconds at most: exact in an f64.
            let ns = sys::thread_time().saturating_sub(start) as f64;
            if outcome != *end {
                return Ok(Err(outcome));
            }
            best = best.min(ns / (f64::from(loops) * TURN));
        }
        Ok(Ok(best))
    }
}
