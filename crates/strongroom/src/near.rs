//! Names that look like one that is not there.

/// The names that somebody may have meant, the likeliest first, three at most.
pub(crate) fn near<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let wrong = wrong.to_lowercase();
    if wrong.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|name| {
            let lower = name.to_lowercase();
            let away = distance(&wrong, &lower);
            // A third of it may be wrong; or it is more or less than the name, or than a part of it.
            let close = away.saturating_mul(3) <= wrong.chars().count().max(3);
            let parts = || lower.split(|c: char| !c.is_alphanumeric()).chain([lower.as_str()]);
            let more = wrong.len() >= 3 && parts().any(|part| part.starts_with(&wrong));
            let less = lower.len() >= 3 && wrong.starts_with(&lower);
            (close || more || less).then_some((away, name))
        })
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(_, name)| name).take(3).collect()
}

/// How many letters have to be put in, left out or replaced to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, a) in one.chars().enumerate() {
        // Of the row before, the value to the left of the one that is replaced.
        let mut corner = index;
        let mut left = index.saturating_add(1);
        for (b, value) in other.iter().zip(row.iter_mut().skip(1)) {
            let replaced = corner.saturating_add(usize::from(a != *b));
            corner = *value;
            left = replaced.min(left.saturating_add(1)).min(corner.saturating_add(1));
            *value = left;
        }
        if let Some(first) = row.first_mut() {
            *first = index.saturating_add(1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_apart() {
        for (one, other, away) in
            [("", "", 0), ("", "abc", 3), ("abc", "", 3), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(one, other), away, "{one} {other}");
        }
    }

    #[test]
    fn the_likeliest_come_first() {
        let names = ["web01", "web02", "db01", "vm.agent", "x"];
        assert_eq!(near("web1", names), ["web01"]);
        assert_eq!(near("web", names), ["web01", "web02"]);
        assert_eq!(near("db01-old", names), ["db01"]);
        assert_eq!(near("WEB02", names), ["web02", "web01"]);
        assert_eq!(near("agent", names), ["vm.agent"]);
        assert!(near("mail", names).is_empty() && near("", names).is_empty());
        assert!(near("nope", ["ExtensionOperationFailed"]).is_empty());
    }
}
