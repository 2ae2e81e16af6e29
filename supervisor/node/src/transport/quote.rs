//! The beginning of an answer, in a form that an error message can repeat.

/// How many characters of an answer an error message repeats.
const QUOTED_CHARACTERS: usize = 120;

/// Returns the beginning of an answer on one line, without control characters.
pub(super) fn quote(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(4 * QUOTED_CHARACTERS)];
    let text = String::from_utf8_lossy(head);
    let words: Vec<_> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(QUOTED_CHARACTERS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_quoted_on_one_short_line() {
        assert_eq!(quote(b"<html>\n  Bad\tGateway\x1b[1m"), "<html> Bad Gateway[1m");
        assert_eq!(quote(&[b'x'; 5000]).len(), QUOTED_CHARACTERS);
    }
}
