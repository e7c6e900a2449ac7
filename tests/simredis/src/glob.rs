//! Patterns of KEYS, SCAN and CONFIG GET: `*`, `?`, and `\` before a byte that means itself.

/// Whether the whole text fits.
pub(crate) fn fits(pattern: &[u8], text: &[u8]) -> bool {
    match (pattern, text) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => (0..=text.len()).any(|at| fits(rest, &text[at..])),
        ([b'?', rest @ ..], [_, others @ ..]) => fits(rest, others),
        ([b'\\', byte, rest @ ..] | [byte, rest @ ..], [first, others @ ..]) => byte == first && fits(rest, others),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn patterns_fit() {
        for (pattern, text) in
            [("*", ""), ("a*c", "abbc"), ("mailrelay:{*}:ledger", "mailrelay:{x}:ledger"), ("?", "a")]
        {
            assert!(fits(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [("a", "b"), ("?", ""), ("a*c", "abd"), (r"\*", "a"), ("append*", "xappend")] {
            assert!(!fits(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }
}
