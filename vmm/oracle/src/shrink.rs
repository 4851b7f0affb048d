//! The least of a program that still does it.

use crate::program::{Program, Step};

/// Leaves out steps of `program` as long as what is left `differs`, larger pieces first. Asks `most` times at
/// most, as each question may be two guests.
pub fn shrink(
    program: &Program,
    most: usize,
    mut differs: impl FnMut(&Program) -> bool,
) -> Program {
    let mut least = program.clone();
    let mut piece = least.steps.len() / 2;
    let mut asked = 0;
    while piece > 0 {
        let mut from = 0;
        while from < least.steps.len() {
            if asked == most {
                return least;
            }
            asked += 1;
            let rest: Vec<Step> = least
                .steps
                .iter()
                .enumerate()
                .filter(|(number, _)| !(from..from + piece).contains(number))
                .map(|(_, step)| *step)
                .collect();
            let candidate = Program {
                steps: rest,
                ..least.clone()
            };
            if differs(&candidate) {
                least = candidate;
            } else {
                from += piece;
            }
        }
        piece /= 2;
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operation::Operation;
    use crate::program::Face;

    fn program(steps: u8) -> Program {
        Program {
            face: Face::X2apic,
            cpus: 1,
            steps: (0..steps)
                .map(|number| Step {
                    cpu: 0,
                    operation: Operation::Cr8(number),
                })
                .collect(),
        }
    }

    fn has(program: &Program, number: u8) -> bool {
        let wanted = Operation::Cr8(number);
        program.steps.iter().any(|step| step.operation == wanted)
    }

    #[test]
    fn two_steps_that_it_takes_are_what_is_left() {
        let least = shrink(&program(100), 1000, |p| has(p, 17) && has(p, 80));
        let left: Vec<_> = least.steps.iter().map(|step| step.operation).collect();
        assert_eq!(left, [Operation::Cr8(17), Operation::Cr8(80)]);
    }

    #[test]
    fn no_more_questions_are_asked_than_allowed() {
        let mut asked = 0;
        let least = shrink(&program(100), 7, |_| {
            asked += 1;
            false
        });
        assert_eq!((asked, least), (7, program(100)));
    }
}
