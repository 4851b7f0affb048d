//! "Did you mean": the closest of the names that are allowed.

/// The candidate closest to `given`, if any is close enough to be a slip of the fingers.
pub fn closest<'a>(given: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters wrong is a typo; more is another word.
    let limit = (given.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            // Half a name, as in `vunmap` for `vunmap-storm`, is as good as one typo.
            let part = given.len() >= 3 && candidate.contains(given);
            // Swapping two neighbours counts once.
            let distance = strsim::osa_distance(given, candidate);
            (if part { 1 } else { distance }, candidate)
        })
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 2] = ["static-key-flip", "vunmap-storm"];

    #[test]
    fn slips_find_their_name() {
        for (given, meant) in [
            ("static-key-filp", "static-key-flip"),
            ("statickeyflip", "static-key-flip"),
            ("vunmap", "vunmap-storm"),
            ("vumnap-strom", "vunmap-storm"),
        ] {
            assert_eq!(closest(given, NAMES), Some(meant), "{given}");
        }
    }

    #[test]
    fn other_words_find_nothing() {
        for given in ["", "x", "hackbench", "storm-of-the-century"] {
            assert_eq!(closest(given, NAMES), None, "{given}");
        }
    }
}
