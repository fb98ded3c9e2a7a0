//! Error codes and their pages, built in from docs/errors: `holdfast explain HF0402` works without network and files.

mod pages {
    include!(concat!(env!("OUT_DIR"), "/pages.rs"));
}

/// The page of `code` (`HF0402`, `hf402` and `402` are the same), as Markdown.
pub fn explain(code: &str) -> Option<&'static str> {
    let wanted = normal(code)?;
    pages::PAGES.binary_search_by(|(code, _)| (*code).cmp(wanted.as_str())).ok().map(|at| pages::PAGES[at].1)
}

/// Every code with the title of its page, in order.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    pages::PAGES.iter().map(|(code, page)| (*code, title(page)))
}

/// Codes nearest to one that has no page: same digits but one, then nearest by number. At most three.
pub fn near(code: &str) -> Vec<&'static str> {
    let Some(wanted) = normal(code) else { return Vec::new() };
    let number = |code: &str| code[2..].parse::<i64>().unwrap_or(0);
    let distance = |code: &str| {
        let different = code.bytes().zip(wanted.bytes()).filter(|(a, b)| a != b).count() as i64;
        ((different - 1).max(0), (number(code) - number(&wanted)).abs())
    };
    let mut codes: Vec<&'static str> =
        pages::PAGES.iter().map(|(code, _)| *code).filter(|c| c.len() == wanted.len()).collect();
    codes.sort_by_key(|code| distance(code));
    codes.truncate(3);
    codes
}

fn title(page: &'static str) -> &'static str {
    let line = page.lines().next().unwrap_or_default();
    line.split_once(": ").map_or(line, |(_, title)| title)
}

fn normal(code: &str) -> Option<String> {
    let code = code.trim();
    let head = code.get(..2).filter(|head| head.eq_ignore_ascii_case("hf"));
    let digits = head.map_or(code, |_| &code[2..]);
    digits.parse::<u16>().ok().filter(|n| *n < 10_000).map(|n| format!("HF{n:04}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_however_it_is_written() {
        let page = explain("HF0402").expect("it has a page");
        for spelled in ["hf0402", "402", "0402", " HF402 "] {
            assert_eq!(explain(spelled), Some(page), "{spelled}");
        }
        for none in ["HF9999", "", "HF", "HFabc", "häß", "-1"] {
            assert_eq!(explain(none), None, "{none}");
        }
    }

    #[test]
    fn an_unknown_code_suggests_near_ones() {
        assert!(near("HF0452").contains(&"HF0402"), "{:?}", near("HF0452"));
        assert!(near("nonsense").is_empty());
    }

    #[test]
    fn every_page_has_its_title_and_sections() {
        assert!(all().count() > 0);
        for (code, page) in pages::PAGES {
            assert!(page.starts_with(&format!("# {code}: ")), "{code}: first line");
            for section in ["## What happened", "## Why", "## What to do"] {
                assert!(page.contains(section), "{code}: {section}");
            }
        }
    }
}
