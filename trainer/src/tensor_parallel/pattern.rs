//! Path patterns: dotted paths in which `*` stands for one segment.

/// Returns what the `*` of a pattern stand for if it matches a path.
pub(super) fn captures<'a>(pattern: &str, path: &'a str) -> Option<Vec<&'a str>> {
    let (mut wanted, mut found) = (pattern.split('.'), path.split('.'));
    let mut captured = Vec::new();
    loop {
        match (wanted.next(), found.next()) {
            (None, None) => return Some(captured),
            (Some("*"), Some(segment)) => captured.push(segment),
            (Some(a), Some(b)) if a == b => {}
            _ => return None,
        }
    }
}

/// Returns the path most like a pattern, for the reader of an error.
pub(super) fn nearest<'a>(pattern: &str, paths: impl Iterator<Item = &'a str>) -> Option<String> {
    // Comparing with the path's own indices in place of `*` keeps them from counting as
    // differences.
    let score = |path: &str| {
        let segments: Vec<_> = path.split('.').collect();
        let filled: Vec<_> = pattern
            .split('.')
            .enumerate()
            .map(
                |(i, segment)| {
                    if segment == "*" { segments.get(i).copied().unwrap_or("*") } else { segment }
                },
            )
            .collect();
        strsim::jaro_winkler(&filled.join("."), path)
    };
    paths
        .map(|path| (score(path), path))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, path)| path.to_owned())
}
