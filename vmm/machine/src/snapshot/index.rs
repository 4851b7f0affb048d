//! What is where in a snapshot's file.

use serde::{Deserialize, Serialize};

use super::SnapshotError;

/// Everything in the file begins at a multiple of this, so that it can be mapped.
pub(super) const PAGE: u64 = 4096;

/// The last part of the file; the header says where it begins.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Index {
    /// What the snapshot is of.
    pub(super) key: String,
    pub(super) state: Section,
    pub(super) mailbox: Section,
    /// RAM of the machine, in bytes.
    pub(super) memory_bytes: u64,
    /// The parts of it that are not all zero, by address.
    pub(super) memory: Vec<Part>,
    /// Of all parts, one after the other.
    pub(super) memory_hash: String,
}

/// A stretch of the file.
#[derive(Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) bytes: u64,
    pub(super) hash: String,
}

/// A stretch of guest memory in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(super) struct Part {
    /// Guest-physical address.
    pub(super) at: u64,
    pub(super) bytes: u64,
    pub(super) offset: u64,
}

impl Index {
    /// Whether the parts of the file lie one after the other, from `from` to `to`, with nothing
    /// between them that no hash covers.
    pub(super) fn check(&self, from: u64, to: u64) -> Result<(), SnapshotError> {
        const ORDER: SnapshotError = SnapshotError::Damaged("its parts are not in their places");
        let mut next = from;
        let mut follows = |offset: u64, bytes: u64| {
            let fits = offset == next && bytes.is_multiple_of(PAGE);
            next = offset.saturating_add(bytes);
            if fits { Ok(()) } else { Err(ORDER) }
        };
        follows(self.state.offset, self.state.bytes)?;
        follows(self.mailbox.offset, self.mailbox.bytes)?;
        for part in &self.memory {
            follows(part.offset, part.bytes)?;
        }
        let mut free = 0;
        for part in &self.memory {
            let end = part.at.saturating_add(part.bytes);
            let fits = part.at >= free && part.at.is_multiple_of(PAGE) && end <= self.memory_bytes;
            if !fits || part.bytes == 0 {
                return Err(ORDER);
            }
            free = end;
        }
        if next == to { Ok(()) } else { Err(ORDER) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index() -> Index {
        let section = |offset, bytes| Section {
            offset,
            bytes,
            hash: String::new(),
        };
        let part = |at, bytes, offset| Part { at, bytes, offset };
        Index {
            key: "k".into(),
            state: section(PAGE, 2 * PAGE),
            mailbox: section(3 * PAGE, PAGE),
            memory_bytes: 100 * PAGE,
            memory: vec![
                part(PAGE, PAGE, 4 * PAGE),
                part(98 * PAGE, 2 * PAGE, 5 * PAGE),
            ],
            memory_hash: String::new(),
        }
    }

    fn fits(index: &Index) -> bool {
        index.check(PAGE, 7 * PAGE).is_ok()
    }

    #[test]
    fn parts_one_after_the_other_are_in_their_places() {
        assert!(fits(&index()));
        assert!(index().check(PAGE, 8 * PAGE).is_err(), "a page too many");
        assert!(index().check(0, 7 * PAGE).is_err(), "a page before");
    }

    #[test]
    fn an_index_that_lies_about_places_is_found_out() {
        type Lie = fn(&mut Index);
        let lies: [(&str, Lie); 8] = [
            ("a gap", |i| i.mailbox.offset += PAGE),
            ("half a page of state", |i| i.state.bytes -= PAGE / 2),
            ("beyond memory", |i| i.memory[1].at += PAGE),
            ("out of order", |i| i.memory[1].at = 0),
            ("twice the same", |i| i.memory[1].at = PAGE),
            ("not at a page", |i| i.memory[0].at += 8),
            ("nothing", |i| i.memory[0].bytes = 0),
            ("endless", |i| i.memory[1].bytes = !(PAGE - 1)),
        ];
        for (what, lie) in lies {
            let mut index = index();
            lie(&mut index);
            assert!(!fits(&index), "{what}");
        }
    }
}
