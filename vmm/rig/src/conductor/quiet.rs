//! The wait for quiet: a window opens only when the isolated vCPUs have been left alone for a
//! while, or it would be spoilt by what has nothing to do with the storm.

use std::time::{Duration, Instant};

use ipirig_evidence::ledger::{CpuRecord, LedgerCounts};

use super::{Conductor, Ended, Phase, USER};

/// A timer that goes off within this will do so in the window.
const HORIZON: Duration = Duration::from_secs(10);

impl Conductor<'_> {
    /// Returns once nothing was sent to or taken by any isolated vCPU for the quiet time, and each
    /// of them is in user space with its heart beating. A timer that would go off in the window is
    /// waited for, but not for ever: one that comes again and again is for the verdict to name.
    pub(super) fn quiet(&mut self) -> Result<(), Ended> {
        let quiet = self.quiet_time;
        let start = self.ledger.counts();
        let mut since = Instant::now();
        let patience = since + self.plan.timeouts.timer;
        let mut seen = self.activities();
        let mut beats = self.heartbeats();
        loop {
            self.pause()?;
            let now = self.activities();
            if now != seen {
                (seen, beats, since) = (now, self.heartbeats(), Instant::now());
            } else if since.elapsed() >= quiet {
                if self.all_spin(&beats)? && (Instant::now() >= patience || !self.timers_near()?) {
                    return Ok(());
                }
                since = Instant::now();
            }
            if Instant::now() >= self.deadline {
                return Err(self.never_quiet(&start));
            }
        }
    }

    fn activities(&self) -> Vec<u64> {
        self.isolated
            .iter()
            .map(|&cpu| self.ledger.activity(cpu))
            .collect()
    }

    fn heartbeats(&self) -> Vec<u64> {
        self.isolated
            .iter()
            .map(|&cpu| self.heartbeat(cpu))
            .collect()
    }

    /// Whether each isolated vCPU is in user space and has turned its loop since `beats`; one without
    /// a task, whether it is in the kernel.
    fn all_spin(&mut self, beats: &[u64]) -> Result<bool, Ended> {
        let task = self.plan.isolated_in.has_task();
        for (cpu, &before) in self.isolated.clone().into_iter().zip(beats) {
            if !task {
                if self.sample(cpu)?.cpl == USER {
                    return Ok(false);
                }
                continue;
            }
            if self.sample(cpu)?.cpl != USER || self.heartbeat(cpu) == before {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the timer of an isolated vCPU is about to go off.
    fn timers_near(&mut self) -> Result<bool, Ended> {
        for cpu in self.isolated.clone() {
            if self.sample(cpu)?.timer.is_some_and(|left| left < HORIZON) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn never_quiet(&self, start: &LedgerCounts) -> Ended {
        let end = self.ledger.counts();
        let each = self.isolated.iter().map(|&cpu| {
            let (Some(from), Some(to)) = (start.cpus.get(cpu), end.cpus.get(cpu)) else {
                return format!("vCPU {cpu} is not in the ledger");
            };
            format!("vCPU {cpu} {}", disturbances(from, to))
        });
        Ended::NeverQuiet {
            quiet: self.quiet_time,
            waited: self.time_for(Phase::Quiet),
            disturbed: each.collect::<Vec<_>>().join("; "),
        }
    }
}

/// What came between two moments outside the window.
fn disturbances(from: &CpuRecord, to: &CpuRecord) -> String {
    let mut parts = Vec::new();
    for (kind, &count) in &to.outside.targeted {
        let new = count - from.outside.targeted.get(kind).copied().unwrap_or(0);
        if new > 0 {
            parts.push(format!("{new} {kind} IPIs"));
        }
    }
    for (kind, &count) in &to.outside.other {
        let new = count - from.outside.other.get(kind).copied().unwrap_or(0);
        if new > 0 {
            parts.push(format!("{new} {kind} interrupts"));
        }
    }
    if parts.is_empty() {
        return "got no interrupt, but its task is not spinning in user space".to_owned();
    }
    format!("got {}", parts.join(", "))
}
