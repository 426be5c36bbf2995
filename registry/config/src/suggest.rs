//! "Did you mean …?"

/// The known word that is nearest to what was written, if one is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Long rubbish is nobody's slip, and distance costs length times length.
    if written.len() > 64 {
        return None;
    }
    known
        .into_iter()
        .map(|word| (distance(written, word), word))
        .min()
        .filter(|(distance, word)| *distance <= 1 + word.len() / 5)
        .map(|(_, word)| word)
}

/// Letters to insert, remove, replace or swap with their neighbour to get from one text to the other.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().collect();
    let b: Vec<char> = b.chars().collect();
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 4] = ["primary", "residency", "hosts", "dr"];

    #[test]
    fn slips_are_recognized_and_other_words_are_not() {
        assert_eq!(nearest("primray", KEYS), Some("primary"));
        assert_eq!(nearest("residancy", KEYS), Some("residency"));
        assert_eq!(nearest("host", KEYS), Some("hosts"));
        assert_eq!(nearest("rd", KEYS), Some("dr"));
        assert_eq!(nearest("schedule", KEYS), None);
        assert_eq!(nearest(&"x".repeat(1000), KEYS), None);
    }
}
