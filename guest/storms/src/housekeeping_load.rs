//! A load like hackbench's on all CPUs that are not isolated.

use std::io::{self, PipeReader, PipeWriter, Read, Write};

use ipirig_abi::StormKind;

use super::by_module;
use super::children::{self, Children};
use crate::interfaces::Interfaces;
use crate::request::{Progress, StormError, StormRequest};
use ipirig_system::{During, Errno, sys};

/// Bytes of a message: hackbench's.
const MESSAGE: usize = 100;
/// Messages for which one round of the rest of the load is done.
const ROUND: u64 = 8;
/// Processes that come and go in a round: more than the stacks that a CPU keeps for the next ones
/// (NR_CACHED_STACKS of kernel/fork.c).
const FORKS: u64 = 4;
/// Pages that are mapped and unmapped in a round.
const PAGES: u64 = 8;

pub(crate) fn run(
    interfaces: &Interfaces<'_>,
    request: &StormRequest,
    progress: &mut Progress,
) -> Result<(), StormError> {
    // Without the vfrees and the flips it would be another load, which interrupts nobody.
    if interfaces.triggers.is_none() {
        return Err(StormError::NoModule);
    }
    let mut children = Children::default();
    let next = interfaces.housekeeping.iter().cycle().skip(1);
    for (&from, &to) in interfaces.housekeeping.iter().zip(next) {
        pair(&mut children, from, to, request.operations)
            .during(|| format!("start a pair of processes on CPUs {from} and {to}"))?;
        progress.value += 1;
    }
    for _ in 0..request.operations.div_ceil(ROUND) {
        round(interfaces)?;
    }
    children
        .join()
        .during(|| format!("send {} messages through pipes", request.operations))?;
    progress.done = request.operations;
    Ok(())
}

/// What the control CPU does meanwhile.
fn round(interfaces: &Interfaces<'_>) -> Result<(), StormError> {
    children::come_and_go(FORKS).during(|| format!("create and kill {FORKS} processes"))?;
    for (kind, size) in [(StormKind::Vunmap, PAGES), (StormKind::StaticKeyFlip, 0)] {
        let once = StormRequest {
            kind,
            operations: 1,
            size,
            target: 0,
        };
        by_module::run(interfaces, &once, &mut Progress::default())?;
    }
    Ok(())
}

/// Starts a sender on one CPU and a receiver on another.
fn pair(children: &mut Children, from: usize, to: usize, messages: u64) -> Result<(), Errno> {
    let (reader, writer) = io::pipe()?;
    let (reader, writer) = (&mut Some(reader), &mut Some(writer));
    // Each child closes the end that is not its own, or it would wait for itself.
    children.add(|| {
        drop(reader.take());
        sys::pin(from)?;
        writer.take().map_or(Ok(()), |pipe| send(pipe, messages))
    })?;
    children.add(|| {
        drop(writer.take());
        sys::pin(to)?;
        reader.take().map_or(Ok(()), |pipe| receive(pipe, messages))
    })
}

fn send(mut pipe: PipeWriter, messages: u64) -> Result<(), Errno> {
    for _ in 0..messages {
        pipe.write_all(&[0; MESSAGE])?;
    }
    Ok(())
}

fn receive(mut pipe: PipeReader, messages: u64) -> Result<(), Errno> {
    let mut message = [0; MESSAGE];
    for _ in 0..messages {
        pipe.read_exact(&mut message)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_that_is_sent_too_little_ends_with_an_error() {
        let (reader, writer) = io::pipe().unwrap();
        send(writer, 2).unwrap();
        assert_eq!(receive(reader, 3), Err(Errno(libc::EIO)));
    }
}
