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
            (if part { 1 } else { distance(given, candidate) }, candidate)
        })
        .filter(|&(distance, _)| distance <= limit)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance in which swapping two neighbours counts once (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
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

    #[test]
    fn distance_counts_each_edit_once() {
        let cases = [
            ("", "", 0),
            ("abc", "", 3),
            ("abc", "abd", 1),
            ("abcd", "acbd", 1),
        ];
        for (a, b, expected) in cases {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
