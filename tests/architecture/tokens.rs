//! The names and signs of a source, without its comments and texts.

/// A path is one token, such as `crate::mail::Mail`; anything else is one sign. Texts, characters, lifetimes and numbers are
/// left out.
pub fn tokens(text: &str) -> Vec<String> {
    let (mut tokens, mut rest) = (Vec::new(), text);
    while let Some(first) = rest.chars().next() {
        if let Some(more) = skipped(rest) {
            rest = more;
        } else if is_start(first) {
            let (path, more) = path(rest);
            tokens.push(path.to_owned());
            rest = more;
        } else if let Some(more) = rest.strip_prefix("::") {
            tokens.push("::".to_owned());
            rest = more;
        } else {
            if !first.is_whitespace() {
                tokens.push(first.to_string());
            }
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

fn is_start(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn name_len(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// Names joined by `::`, and what follows them.
fn path(text: &str) -> (&str, &str) {
    let mut end = name_len(text);
    while let Some(more) = text[end..].strip_prefix("::").filter(|more| more.starts_with(is_start)) {
        end += 2 + name_len(more);
    }
    text.split_at(end)
}

/// What follows a comment, a text, a character, a lifetime or a number that begins here.
fn skipped(text: &str) -> Option<&str> {
    let behind = |text: &'_ str, end: &str| text.find(end).map_or(text.len(), |at| at + end.len());
    if text.starts_with("//") {
        return Some(&text[behind(text, "\n")..]);
    }
    if text.starts_with("/*") {
        return Some(&text[behind(text, "*/")..]);
    }
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return Some(&text[name_len(text)..]);
    }
    let plain = text.strip_prefix(['b', 'c']).filter(|rest| rest.starts_with(['r', '"', '\''])).unwrap_or(text);
    if let Some(raw) = plain.strip_prefix('r') {
        let marks = raw.len() - raw.trim_start_matches('#').len();
        let inside = raw[marks..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(marks));
        return Some(&inside[behind(inside, &end)..]);
    }
    if let Some(inside) = plain.strip_prefix('"') {
        return Some(behind_quote(inside, '"'));
    }
    let inside = plain.strip_prefix('\'')?;
    let is_character = inside.starts_with('\\') || inside.chars().nth(1) == Some('\'');
    Some(if is_character { behind_quote(inside, '\'') } else { &inside[name_len(inside)..] })
}

/// What follows the quote that ends a text.
fn behind_quote(text: &str, quote: char) -> &str {
    let mut escaped = false;
    let end = text.char_indices().find(|(_, c)| {
        let is_end = *c == quote && !escaped;
        escaped = *c == '\\' && !escaped;
        is_end
    });
    end.map_or("", |(at, quote)| &text[at + quote.len_utf8()..])
}

#[test]
fn what_is_no_code_is_left_out() {
    let text = r##"use a::b::{c, d}; /* x */ let s = "{ \" a::b"; // y
        let r = r#"{"k": "v"}"#; let b = b"{"; let c = ['{', '\'', b'"']; fn f<'a>(x: &'a str) -> u8 { 0x1f }"##;
    let found = tokens(text).join(" ");
    assert_eq!(
        found,
        "use a::b :: { c , d } ; let s = ; let r = ; let b = ; let c = [ , , ] ; fn f < > ( x : & str ) - > u8 { }"
    );
}
