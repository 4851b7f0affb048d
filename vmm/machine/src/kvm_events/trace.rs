//! The text of the host's trace, as it comes.

use super::parse::{Line, Senders};
use crate::observer::Observer;

/// Bytes of a line. The kernel's are shorter than the 8 KiB that it prints into (TRACE_SEQ_SIZE, linux/trace_seq.h).
const LINE_MAX: usize = 16 << 10;

/// A line of the trace that is no event of those that were asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no event: {0}")]
pub struct NoEvent(String);

/// What has been read of a trace of KVM's own APICs, as far as more belongs to it.
#[derive(Debug, Default)]
pub struct KvmTrace {
    /// A line that is not whole yet.
    rest: Vec<u8>,
    senders: Senders,
}

impl KvmTrace {
    /// Tells `observer` what `more` of the trace says. `vcpu`: which vCPU a thread runs.
    ///
    /// # Errors
    /// A line is none of the trace.
    pub fn read(
        &mut self,
        more: &[u8],
        vcpu: &dyn Fn(i32) -> Option<usize>,
        observer: &dyn Observer,
    ) -> Result<(), NoEvent> {
        for part in more.split_inclusive(|&byte| byte == b'\n') {
            self.rest.extend_from_slice(part);
            if self.rest.ends_with(b"\n") {
                let line = std::mem::take(&mut self.rest);
                self.take(&String::from_utf8_lossy(&line), vcpu, observer)?;
            } else if self.rest.len() > LINE_MAX {
                let line = std::mem::take(&mut self.rest);
                return Err(no_event(&String::from_utf8_lossy(&line)));
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        line: &str,
        vcpu: &dyn Fn(i32) -> Option<usize>,
        observer: &dyn Observer,
    ) -> Result<(), NoEvent> {
        match Line::parse(line.trim_end()).ok_or_else(|| no_event(line))? {
            Line::Lost(count) => observer.lost(count),
            Line::Event(event) => {
                if let Some(cpu) = vcpu(event.thread) {
                    self.senders.take(cpu, &event, observer);
                }
            }
        }
        Ok(())
    }

    /// Nothing more belongs to what was sent: tells `observer` of that.
    pub fn finish(&mut self, observer: &dyn Observer) {
        self.senders.finish(observer);
    }
}

/// As much of the line as a message takes.
fn no_event(line: &str) -> NoEvent {
    NoEvent(line.trim_end().chars().take(200).collect())
}
