//! Which host core runs which vCPU.

use ipirig_abi::Role;
use thiserror::Error;

/// A host core for each vCPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Host core by vCPU.
    pub cores: Vec<usize>,
    /// What a person should know about it; each a sentence.
    pub warnings: Vec<String>,
}

/// A `--pin` that cannot be.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum PlacementError {
    /// Not one core a vCPU.
    #[error("--pin names {given} cores for {vcpus} vCPUs; name one a vCPU, in order")]
    WrongCount {
        /// Cores named.
        given: usize,
        /// vCPUs to place.
        vcpus: usize,
    },
    /// A core this process may not use.
    #[error("--pin names core {core}, but this process may only use {}", list(.usable))]
    NotUsable {
        /// The core.
        core: usize,
        /// Those that may be used.
        usable: Vec<usize>,
    },
}

fn list(cores: &[usize]) -> String {
    cores
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Placement {
    /// Chooses cores out of `usable` (not empty), or takes `pin`.
    ///
    /// Unless told otherwise each isolated vCPU gets a core of its own, from the last core down,
    /// as long as one is left for the others; the others share the rest in turn.
    ///
    /// # Errors
    /// `pin` has the wrong length or names a core that may not be used.
    pub fn new(
        roles: &[Role],
        usable: &[usize],
        pin: Option<&[usize]>,
    ) -> Result<Self, PlacementError> {
        let cores = match pin {
            Some(pin) => pinned(roles.len(), usable, pin)?,
            None => chosen(roles, usable),
        };
        let warnings = warnings(roles, usable, &cores);
        Ok(Self { cores, warnings })
    }
}

fn pinned(vcpus: usize, usable: &[usize], pin: &[usize]) -> Result<Vec<usize>, PlacementError> {
    if pin.len() != vcpus {
        return Err(PlacementError::WrongCount {
            given: pin.len(),
            vcpus,
        });
    }
    match pin.iter().find(|core| !usable.contains(core)) {
        Some(&core) => Err(PlacementError::NotUsable {
            core,
            usable: usable.to_vec(),
        }),
        None => Ok(pin.to_vec()),
    }
}

fn chosen(roles: &[Role], usable: &[usize]) -> Vec<usize> {
    let isolated = roles.iter().filter(|&&role| role == Role::Isolated).count();
    let own = isolated.min(usable.len().saturating_sub(1));
    let (shared, reserved) = usable.split_at(usable.len() - own);
    let mut reserved = reserved.iter().rev();
    let mut shared = shared.iter().cycle();
    roles
        .iter()
        .map(|&role| {
            let own = if role == Role::Isolated {
                reserved.next()
            } else {
                None
            };
            own.or_else(|| shared.next()).copied().unwrap_or_default()
        })
        .collect()
}

fn warnings(roles: &[Role], usable: &[usize], cores: &[usize]) -> Vec<String> {
    let mut warnings = Vec::new();
    if roles.len() > usable.len() {
        warnings.push(format!(
            "{} vCPUs on {} cores: some share a core, and times mean little",
            roles.len(),
            usable.len()
        ));
    }
    for (cpu, core) in cores.iter().enumerate() {
        let shares = cores
            .iter()
            .enumerate()
            .any(|(other, c)| other != cpu && c == core);
        if roles.get(cpu) == Some(&Role::Isolated) && shares {
            warnings.push(format!(
                "isolated vCPU {cpu} shares core {core} with another vCPU"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use Role::{Control, Housekeeping, Isolated};

    #[test]
    fn an_isolated_vcpu_has_a_core_of_its_own_while_there_are_two() {
        assert_eq!(
            Placement::new(&[Control, Housekeeping, Isolated], &[0, 1], None),
            Ok(Placement {
                cores: vec![0, 0, 1],
                warnings: vec![
                    "3 vCPUs on 2 cores: some share a core, and times mean little".into()
                ],
            })
        );
        assert_eq!(
            Placement::new(&[Control, Isolated, Isolated], &[2, 3, 5, 7], None),
            Ok(Placement {
                cores: vec![2, 7, 5],
                warnings: vec![]
            })
        );
    }

    #[test]
    fn on_one_core_the_sharing_is_said() {
        let placement = Placement::new(&[Control, Isolated], &[4], None).unwrap();
        assert_eq!(placement.cores, [4, 4]);
        assert_eq!(
            placement.warnings.last().unwrap(),
            "isolated vCPU 1 shares core 4 with another vCPU"
        );
    }

    #[test]
    fn a_pin_is_taken_or_refused_as_a_whole() {
        let roles = [Control, Isolated];
        assert_eq!(
            Placement::new(&roles, &[0, 1], Some(&[1, 0]))
                .unwrap()
                .cores,
            [1, 0]
        );
        assert_eq!(
            Placement::new(&roles, &[0, 1], Some(&[1])),
            Err(PlacementError::WrongCount { given: 1, vcpus: 2 })
        );
        assert_eq!(
            Placement::new(&roles, &[0, 1], Some(&[0, 9]))
                .unwrap_err()
                .to_string(),
            "--pin names core 9, but this process may only use 0, 1"
        );
    }
}
