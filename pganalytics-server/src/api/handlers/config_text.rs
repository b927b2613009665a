/// Why a collector would not read a configuration as it was meant. Its parser never fails: it reads something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {rule}")]
pub(super) struct MisreadLine {
    /// Counted from 1.
    line: usize,
    rule: &'static str,
}

/// The longest text.
const MAX_LEN: usize = 256 * 1024;

/// Accepts a text that collectors in the field read as it is meant: flat sections, one `key = value` a line, comments
/// on lines of their own, lists without quotes.
pub(super) fn check(text: &str) -> Result<(), MisreadLine> {
    if text.len() > MAX_LEN {
        return Err(MisreadLine { line: 1, rule: "the text is longer than 256 KiB" });
    }
    let mut in_section = false;
    for (index, line) in text.lines().enumerate() {
        let line_of = |rule| MisreadLine { line: index + 1, rule };
        if line.chars().any(|letter| letter.is_control() && letter != '\t') {
            return Err(line_of("there is a control character"));
        }
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with('[') {
            check_section(line).map_err(line_of)?;
            in_section = true;
        } else {
            check_setting(line).map_err(line_of)?;
            if !in_section {
                return Err(line_of("the setting is in no section"));
            }
        }
    }
    Ok(())
}

fn check_section(line: &str) -> Result<(), &'static str> {
    let name = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match name.map(str::trim) {
        Some(name) if is_bare(name) => Ok(()),
        _ => Err("a section is `[name]` of letters, digits, `_` and `-`, not nested, with nothing behind it"),
    }
}

fn check_setting(line: &str) -> Result<(), &'static str> {
    let Some((key, value)) = line.split_once('=') else {
        return Err("a setting is `key = value`");
    };
    if !is_bare(key.trim()) {
        return Err("a key has letters, digits, `_` and `-`");
    }
    let value = value.trim();
    match value.chars().next() {
        Some('[') => check_list(value),
        Some('{') => Err("values are not nested"),
        Some(quote @ ('"' | '\'')) => check_quoted(value, quote),
        _ if value.split_whitespace().skip(1).any(|word| word.starts_with(['#', ';'])) => {
            Err("a comment behind a value becomes part of it; give it a line of its own")
        }
        _ if value.contains(',') && value.contains(['"', '\'']) => {
            Err("items of a list keep their quotes; leave them out")
        }
        _ => Ok(()),
    }
}

fn check_list(value: &str) -> Result<(), &'static str> {
    let Some(items) = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
        return Err("a list ends on its line, with nothing behind it");
    };
    if items.contains(['"', '\'']) {
        return Err("items of a list keep their quotes; leave them out");
    }
    if items.contains(['[', ']', '{', '}']) {
        return Err("values are not nested");
    }
    Ok(())
}

fn check_quoted(value: &str, quote: char) -> Result<(), &'static str> {
    let inner = value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    match inner {
        None => Err("a quoted value ends on its line, with nothing behind it"),
        Some(inner) if inner.contains(quote) => Err("quotes cannot be escaped"),
        Some(_) => Ok(()),
    }
}

fn is_bare(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_collectors_understand_is_accepted() {
        let text = "# comment\n; comment\n\n[collector]\r\nhostname = \"db-host-1\"\npush_interval = 5\n\
            [postgres]\n\tpassword = a#b;c\ndatabases = [postgres, shop]\nuser='it''s'\n";
        let text = text.replace("'it''s'", "it's");
        assert_eq!(check(&text), Ok(()));
        assert_eq!(check("[a]\nempty =\nlist = a, b\nequals = a=b\nquoted = \"a # b\""), Ok(()));
        assert_eq!(check(""), Ok(()));
    }

    #[test]
    fn what_they_would_misread_is_refused_with_its_line() {
        for (wrong, about) in [
            ("enabled = true # comment", "comment behind"),
            ("name = \"a\" # comment", "nothing behind"),
            ("name = \"a", "nothing behind"),
            ("name = \"a\\\"b\"", "escaped"),
            ("databases = [\"a\", \"b\"]", "quotes"),
            ("databases = 'a', 'b'", "escaped"),
            ("databases = a, \"b\"", "quotes"),
            ("databases = [a,", "ends on its line"),
            ("databases = [[a]]", "not nested"),
            ("table = { a = 1 }", "not nested"),
            ("[a.b]", "not nested"),
            ("[[a]]", "not nested"),
            ("[a] # comment", "nothing behind"),
            ("a.b = 1", "a key has"),
            ("= 1", "a key has"),
            ("just words", "key = value"),
            ("name = a\0b", "control"),
        ] {
            let problem = check(&format!("[collector]\n{wrong}\n")).unwrap_err().to_string();
            assert!(problem.starts_with("line 2: ") && problem.contains(about), "{wrong}: {problem}");
        }
        assert_eq!(check("\na = 1").unwrap_err().to_string(), "line 2: the setting is in no section");
        assert!(check(&"#\n".repeat(200_000)).is_err());
    }
}
