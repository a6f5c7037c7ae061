//! Names of items, disks and other objects that people choose.

/// The most bytes of a name.
const MAX_LEN: usize = 200;

/// Checks the name of an item, a disk or the like: 1 to 200 bytes of any script, without what would make
/// it unsafe as the name of a file, or look like another name.
pub fn check_name(name: &str) -> bool {
    let invisible = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    (1..=MAX_LEN).contains(&name.len())
        && !name.chars().any(|c| matches!(c, '/' | '\\') || invisible(c))
        && !name.starts_with(|c: char| matches!(c, '.' | '-') || c.is_whitespace())
        && !name.ends_with(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_script() {
        for name in [
            "web-01.example_x",
            "日本語の項目",
            "web サーバー 01",
            "Büro (alt)",
            "a,b",
            "_x",
            "vm#1",
        ] {
            assert!(check_name(name), "{name}");
        }
        for name in [
            "",
            " a",
            "a ",
            "a/b",
            "a\\b",
            ".a",
            "..",
            "-a",
            "a\nb",
            "a\0",
            "\u{202e}a",
            "\u{3000}a",
        ] {
            assert!(!check_name(name), "{name:?}");
        }
        assert!(check_name(&"é".repeat(100)) && !check_name(&"é".repeat(101)));
    }
}
