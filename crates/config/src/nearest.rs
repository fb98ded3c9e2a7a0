//! "Did you mean": the known word closest to a mistyped one.

/// The candidate that needs the fewest edits (insert, delete, change, swap two neighbours), if few enough to be a slip:
/// at most a third of the longer word's length, and one edit for very short words. A shared prefix of three letters also counts.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let close = |candidate: &str| {
        let edits = distance(word, candidate);
        let allowed = (word.len().max(candidate.len()) / 3).max(1);
        (edits <= allowed).then_some(edits)
    };
    let all: Vec<&str> = candidates.into_iter().collect();
    let slip = all.iter().filter_map(|c| close(c).map(|edits| (edits, *c))).min();
    slip.map(|(_, c)| c).or_else(|| {
        let shared = |c: &str| word.len() >= 3 && c.len() >= 3 && (c.starts_with(word) || word.starts_with(c));
        all.iter().copied().find(|c| shared(c))
    })
}

/// Optimal string alignment distance. Words are capped so that a hostile key cannot cost quadratic time.
fn distance(a: &str, b: &str) -> usize {
    const WORD_CHARS_MAX: usize = 64;
    let a: Vec<char> = a.chars().take(WORD_CHARS_MAX).collect();
    let b: Vec<char> = b.chars().take(WORD_CHARS_MAX).collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    for (j, cell) in rows[0].iter_mut().enumerate() {
        *cell = j;
    }
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
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

    #[test]
    fn it_finds_slips_and_nothing_far_fetched() {
        let known = ["replicas", "restart", "ready", "live", "port", "env", "env_files"];
        for (word, want) in [
            ("replica", Some("replicas")),
            ("raedy", Some("ready")),
            ("prot", Some("port")),
            ("envfiles", Some("env_files")),
            ("environment", Some("env")),
            ("zzz", None),
            ("colour", None),
        ] {
            assert_eq!(nearest(word, known), want, "{word}");
        }
    }
}
