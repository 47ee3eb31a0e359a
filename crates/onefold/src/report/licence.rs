//! What a model says about its licence: `license` in the front matter of its `README.md`, as the hub reads it.
//!
//! Front matter is YAML between two lines of `---`. Only two keys of it matter here, and cards are written by strangers, so
//! the lines of these keys are read and nothing else is judged.

/// The licence that a model card states: `license`, with `license_name` where it is `other`; several as a list.
pub fn licence(card: &str) -> Option<String> {
    let mut lines = card.trim_start_matches('\u{feff}').lines();
    if lines.next()?.trim_end() != "---" {
        return None;
    }
    let front: Vec<&str> = lines.take_while(|line| line.trim_end() != "---").collect();
    let licences = values(&front, "license");
    match (licences.as_slice(), values(&front, "license_name").first()) {
        ([], _) => None,
        ([other], Some(name)) if other == "other" => Some(format!("{other} ({name})")),
        (all, _) => Some(all.join(", ")),
    }
}

/// The value of a key at the left margin: on its line, as `[a, b]`, or as the list of `- a` below it.
fn values<'f>(front: &[&'f str], key: &str) -> Vec<String> {
    let stated = |(at, line): (usize, &&'f str)| Some((at, line.strip_prefix(key)?.strip_prefix(':')?));
    let Some((at, inline)) = front.iter().enumerate().find_map(stated) else {
        return Vec::new();
    };
    let inline = without_comment(inline);
    let items: Vec<&str> = match inline.strip_prefix('[').and_then(|list| list.strip_suffix(']')) {
        Some(list) => list.split(',').collect(),
        None if !inline.is_empty() => vec![inline],
        None => {
            let below = front[at + 1..].iter().map_while(|line| line.trim_start().strip_prefix("- "));
            below.map(without_comment).collect()
        }
    };
    let bare = |item: &str| item.trim().trim_matches(['"', '\'']).trim().to_owned();
    items.into_iter().map(bare).filter(|item| !item.is_empty() && item != "null" && item != "~").collect()
}

fn without_comment(value: &str) -> &str {
    value.split(" #").next().unwrap_or(value).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn front_matter_states_it() {
        for (front, expected) in [
            ("license: apache-2.0", Some("apache-2.0")),
            ("tags:\n- x\nlicense:   \"mit\"  # yes", Some("mit")),
            ("license: other\nlicense_name: llama3", Some("other (llama3)")),
            ("license: mit\nlicense_name: of no matter", Some("mit")),
            ("license:\n- mit\n  - 'cc-by-4.0'\ntags:\n- x", Some("mit, cc-by-4.0")),
            ("license: [mit, gpl-3.0]", Some("mit, gpl-3.0")),
            ("license:", None),
            ("license: null", None),
            ("model:\n  license: mit", None),
            ("license_link: here", None),
            ("", None),
        ] {
            let card = format!("---\n{front}\n---\n# Title\nlicense: not this\n");
            assert_eq!(licence(&card).as_deref(), expected, "{front}");
            assert_eq!(licence(&card.replace('\n', "\r\n")).as_deref(), expected, "{front}");
        }
        for card in ["", "license: mit", "# Title\n---\nlicense: mit\n---\n", "---"] {
            assert_eq!(licence(card), None, "{card}");
        }
    }
}
