//! Where two machines that carried out the same program part.

use std::fmt;

use crate::deviations::compared;
use crate::log::{Entry, Log};

/// The first place where the logs of one CPU are not the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The CPU.
    pub cpu: usize,
    /// The step that it had last begun with; `None` before the first.
    pub step: Option<u32>,
    /// What it saw on the rig's APIC; `None`: nothing more.
    pub ours: Option<Entry>,
    /// What it saw on KVM's.
    pub theirs: Option<Entry>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry =
            |entry: Option<Entry>| entry.map_or("nothing more".to_owned(), |e| e.to_string());
        write!(f, "cpu {}, ", self.cpu)?;
        match self.step {
            Some(step) => write!(f, "in step {step}")?,
            None => f.write_str("before the first step")?,
        }
        write!(
            f,
            ": on the rig's APIC: {}; on KVM's: {}",
            entry(self.ours),
            entry(self.theirs)
        )
    }
}

/// Whether two entries are the same as far as they are compared.
fn same(ours: &Entry, theirs: &Entry) -> bool {
    match (ours, theirs) {
        (
            Entry::Value { register, value },
            Entry::Value {
                register: other,
                value: others,
            },
        ) => register == other && (value ^ others) & compared(*register) == 0,
        _ => ours == theirs,
    }
}

/// The first difference between the logs of each CPU, if there is one.
#[must_use]
pub fn difference(ours: &[Log], theirs: &[Log]) -> Option<Difference> {
    let cpus = ours.len().max(theirs.len());
    let none = Log::default();
    (0..cpus).find_map(|cpu| {
        let ours = &ours.get(cpu).unwrap_or(&none).0;
        let theirs = &theirs.get(cpu).unwrap_or(&none).0;
        let both = ours.iter().zip(theirs);
        let alike = both.take_while(|(ours, theirs)| same(ours, theirs)).count();
        if alike == ours.len() && alike == theirs.len() {
            return None;
        }
        let begun = ours.iter().take(alike).rev().find_map(|entry| match entry {
            Entry::Begins(step) => Some(*step),
            _ => None,
        });
        Some(Difference {
            cpu,
            step: begun,
            ours: ours.get(alike).copied(),
            theirs: theirs.get(alike).copied(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Register;

    fn value(register: u8, value: u32) -> Entry {
        Entry::Value {
            register: Register(register),
            value,
        }
    }

    #[test]
    fn the_first_difference_is_told_with_its_step() {
        let ours = [
            Log(vec![Entry::Begins(0)]),
            Log(vec![Entry::Begins(1), value(8, 1), Entry::Nmi]),
        ];
        let theirs = [
            Log(vec![Entry::Begins(0)]),
            Log(vec![Entry::Begins(1), value(8, 2)]),
        ];
        let found = difference(&ours, &theirs);
        assert_eq!(
            found,
            Some(Difference {
                cpu: 1,
                step: Some(1),
                ours: Some(value(8, 1)),
                theirs: Some(value(8, 2)),
            })
        );
        assert_eq!(
            found.map(|found| found.to_string()).as_deref(),
            Some("cpu 1, in step 1: on the rig's APIC: TPR reads 0x1; on KVM's: TPR reads 0x2")
        );
    }

    #[test]
    fn a_log_that_ends_early_differs() {
        let ours = [Log(vec![Entry::Begins(3), Entry::Nmi])];
        let theirs = [Log(vec![Entry::Begins(3)])];
        let expected = Difference {
            cpu: 0,
            step: Some(3),
            ours: Some(Entry::Nmi),
            theirs: None,
        };
        assert_eq!(difference(&ours, &theirs), Some(expected));
        assert_eq!(difference(&ours, &[]).map(|found| found.step), Some(None));
    }

    #[test]
    fn what_a_rule_excludes_is_no_difference_and_its_neighbours_are() {
        let logs = |register, low| [Log(vec![value(register, low)])];
        assert_eq!(difference(&logs(0x28, 0), &logs(0x28, 0x40)), None);
        assert_eq!(difference(&logs(3, 0x50014), &logs(3, 0x105_0014)), None);
        assert!(difference(&logs(3, 0x50014), &logs(3, 0x60014)).is_some());
        assert!(difference(&logs(0x37, 0), &logs(0x37, 1)).is_some());
        assert!(difference(&logs(0x28, 0), &logs(0x27, 0)).is_some());
    }
}
