//! Regular expressions as Go reads them, where Rust would read something else.

use regex::{Regex, RegexBuilder};

/// Memory that one expression may take when it is compiled, as large ones are counted in Go too.
const SIZE_MAX: usize = 4 << 20;

/// Compiles an expression of a definition. Its classes are of ASCII, and what Rust does inside of brackets is taken away.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    let regex = RegexBuilder::new(&translate(pattern)).size_limit(SIZE_MAX).build();
    regex.map_err(|error| error.to_string())
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut letters = pattern.chars().peekable();
    // Whether inside of brackets, and whether nothing but the opening came yet.
    let (mut class, mut first) = (false, false);
    while let Some(letter) = letters.next() {
        let opening = std::mem::take(&mut first);
        match letter {
            '\\' => escape(letters.next(), class, &mut out),
            '[' if !class => {
                (class, first) = (true, true);
                out.push('[');
                if letters.next_if_eq(&'^').is_some() {
                    out.push('^');
                }
            }
            ']' if class && opening => out.push_str("\\]"),
            ']' => {
                class = false;
                out.push(']');
            }
            '[' if letters.peek() == Some(&':') => {
                // `[[:alpha:]]`: the same in both.
                out.push('[');
                for letter in letters.by_ref() {
                    out.push(letter);
                    if letter == ']' {
                        break;
                    }
                }
            }
            '[' | '&' | '~' if class => out.extend(['\\', letter]),
            letter => out.push(letter),
        }
    }
    out
}

fn escape(letter: Option<char>, class: bool, out: &mut String) {
    match letter {
        Some('d') => out.push_str(if class { "0-9" } else { "[0-9]" }),
        Some('w') => out.push_str(if class { "0-9A-Za-z_" } else { "[0-9A-Za-z_]" }),
        Some('s') => out.push_str(if class { "\\t\\n\\x0C\\r " } else { "[\\t\\n\\x0C\\r ]" }),
        Some('D') => out.push_str("[^0-9]"),
        Some('W') => out.push_str("[^0-9A-Za-z_]"),
        Some('S') => out.push_str("[^\\t\\n\\x0C\\r ]"),
        Some(bound @ ('b' | 'B')) if !class => {
            out.push_str("(?-u:\\");
            out.push(bound);
            out.push(')');
        }
        Some(letter) => out.extend(['\\', letter]),
        None => out.push('\\'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_they_mean_in_go() {
        let cases = [
            // pattern, text, matches
            (r"^\d+$", "12", true),
            (r"^\d+$", "٣", false),
            (r"^[\d.]+$", "1.2", true),
            (r"^\w+$", "é", false),
            (r"^[]a]+$", "]a", true),
            (r"^[a[b]+$", "a[b", true),
            (r"^[a&&b]+$", "a&b", true),
            (r"^[[:alpha:]_]+$", "ab_", true),
            (r"^[^\s/]+$", "a b", false),
            (r"\bfoo\b", "a foo b", true),
            (r"^\*|[a-z]([-a-z0-9]*[a-z0-9])?$", "*", true),
        ];
        for (pattern, text, matches) in cases {
            assert_eq!(compile(pattern).unwrap().is_match(text), matches, "{pattern} {text}");
        }
        assert!(compile("[").is_err());
        assert!(compile("a{1000}{1000}").is_err(), "bounded");
    }
}
