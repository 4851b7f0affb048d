//! From a window's events to who sent what to whom, and what the targets were doing.

use std::collections::{BTreeMap, HashMap};

use ipirig_blame::{Broken, Causes, Chain, DueTimers, End, Frames, Kernel};

use ipirig_image::Inlined;

use crate::blame::{Attribution, Deferrable, Frame, Taken, TimerAttribution, TimerFunction};
use crate::deliveries::{Delivered, delivered};
use crate::details::{Detail, Details, Write};
use crate::origins;
use crate::vectors::Kind;

/// What makes IPIs alike: sender, kind, chain.
type Key = (usize, Kind, u32);

#[derive(Debug, Default)]
struct Count {
    targets: BTreeMap<usize, u64>,
    taken: Taken,
}

/// See [`super::Stacks::account`].
pub(super) fn account(
    kernel: &Kernel,
    inlined: &Inlined,
    chain: &dyn Fn(usize, u32) -> Option<Chain>,
    details: &Details,
    opened: &[u64],
) -> Vec<Attribution> {
    let counts = count(details, opened);
    let causes = Causes::built_in().ok();
    let mut all: Vec<Attribution> = counts
        .into_iter()
        .filter_map(|((source, kind, number), count)| {
            let chain = chain(source, number)?;
            Some(blame(
                kernel,
                causes.as_ref(),
                inlined,
                (source, kind, number),
                &chain,
                count,
            ))
        })
        .collect();
    all.sort_by_key(|blame| {
        let sends: u64 = blame.targets.values().sum();
        let first = blame.chain.first().map(|frame| frame.address);
        (
            std::cmp::Reverse(sends),
            blame.source,
            blame.kind.clone(),
            first,
        )
    });
    all
}

/// See [`super::Stacks::timers`].
pub(super) fn timers(
    kernel: &Kernel,
    due: &dyn Fn(usize, u32) -> Option<DueTimers>,
    details: &Details,
) -> Vec<TimerAttribution> {
    let Ok(causes) = Causes::built_in() else {
        return Vec::new();
    };
    let mut found: BTreeMap<(usize, u32), Taken> = BTreeMap::new();
    for detail in details.iter() {
        if let Detail::Delivery(delivery) = detail
            && let Some(number) = delivery.due
        {
            let taken = found.entry((delivery.cpu, number)).or_default();
            origins::count(taken, delivery);
        }
    }
    let attribution = |((cpu, number), taken)| {
        let timers = due(cpu, number)?;
        let functions = timers.iter().map(|timer| {
            let name = |address: u64| function(kernel, address);
            let (function, work) = (name(timer.function), timer.work.map(name));
            let cause = causes.of_timer(&function, work.as_deref());
            TimerFunction {
                cause: cause.name.to_owned(),
                by: cause.by.map(str::to_owned),
                function: function.clone(),
                work: work.clone(),
            }
        });
        Some(TimerAttribution {
            cpu,
            number,
            taken,
            timers: functions.collect(),
        })
    };
    let mut all: Vec<TimerAttribution> = found.into_iter().filter_map(attribution).collect();
    all.sort_by_key(|one| (std::cmp::Reverse(one.taken.all()), one.cpu, one.number));
    all
}

/// The name of the function at an address, or the address.
fn function(kernel: &Kernel, address: u64) -> String {
    match kernel.name(address) {
        Some(name) => name.function.name.to_owned(),
        None => format!("{address:#x}"),
    }
}

/// Counts sends by their origin, and puts each delivery down to the sends that it was for.
fn count(details: &Details, opened: &[u64]) -> HashMap<Key, Count> {
    let key = |write: &Write| Some((write.source, write.kind, write.chain?));
    let mut counts: HashMap<Key, Count> = HashMap::new();
    for detail in details.iter() {
        let Detail::Write(write) = detail else {
            continue;
        };
        if let Some(key) = key(write) {
            for cpu in write.targets.iter() {
                let count = counts.entry(key).or_default();
                *count.targets.entry(cpu).or_default() += 1;
            }
        }
    }
    for Delivered { delivery, writes } in delivered(details.iter(), opened) {
        for key in writes.iter().filter_map(key) {
            if let Some(Count { taken, .. }) = counts.get_mut(&key) {
                origins::count(taken, &delivery);
            }
        }
    }
    counts
}

fn blame(
    kernel: &Kernel,
    causes: Option<&Causes>,
    inlined: &Inlined,
    (source, kind, number): Key,
    chain: &Chain,
    count: Count,
) -> Attribution {
    let frames: Vec<Frame> = (0..)
        .zip(chain.addresses())
        .map(|(index, &address)| {
            // A return address may be the next function's first.
            let at = if chain.is_exact(index) {
                address
            } else {
                address.wrapping_sub(1)
            };
            frame(kernel, inlined, address, at)
        })
        .collect();
    let names = frames.iter().flat_map(|frame| {
        let inlined = frame.inlined.iter().map(String::as_str);
        inlined.chain(frame.symbol())
    });
    let cause = causes.map(|causes| causes.of(names));
    let broken = match (chain.end, kernel.frames()) {
        (End::User | End::Start, _) => None,
        (End::Cut(Broken::NoMethod), Frames::Unknown(why)) => Some(why.clone()),
        (End::Cut(broken), _) => Some(broken.to_string()),
    };
    Attribution {
        cause: cause
            .as_ref()
            .map_or("unknown", |cause| cause.name)
            .to_owned(),
        by: cause.as_ref().and_then(|cause| cause.by).map(str::to_owned),
        deferrable: cause.map_or(Deferrable::Unknown, |cause| cause.deferrable.into()),
        kind: kind.to_string(),
        source,
        number: Some(number),
        targets: count.targets,
        taken: count.taken,
        chain: frames,
        broken,
    }
}

fn frame(kernel: &Kernel, inlined: &Inlined, address: u64, at: u64) -> Frame {
    let name = kernel.name(at);
    let function = name.map(|name| match name.module {
        Some(module) => format!("{} [{module}]", name.function.name),
        None => name.function.name.to_owned(),
    });
    Frame {
        address,
        function,
        offset: name.map_or(0, |name| {
            name.function.offset.wrapping_add(address.wrapping_sub(at))
        }),
        inlined: inlined.at(at.wrapping_sub(kernel.slide())),
    }
}
