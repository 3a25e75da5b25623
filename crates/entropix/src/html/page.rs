//! The page: markup, style and script embedded, the data as JSON that cannot end its element, and a policy that lets
//! nothing run or load but the two hashes of this program.

use super::answer::Shown;
use serde_json::Value;
use sha2::{Digest, Sha256};

const MARKUP: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = concat!(
    include_str!("page/base.js"),
    include_str!("page/data.js"),
    include_str!("page/plane.js"),
    include_str!("page/list.js"),
    include_str!("page/answer.js"),
    include_str!("page/timeline.js"),
    include_str!("page/trees.js"),
    include_str!("page/start.js"),
);

/// The page of these requests.
pub(super) fn page(meta: &Value, shown: &[Shown]) -> Vec<u8> {
    let mut page = Vec::with_capacity(shown.iter().map(Shown::n_bytes).sum::<usize>() + (1 << 17));
    let mut rest = MARKUP;
    while let Some((before, after)) = rest.split_once('@') {
        page.extend_from_slice(before.as_bytes());
        let Some((name, after)) = after.split_once('@') else { break };
        match name {
            "style" => page.extend_from_slice(STYLE.as_bytes()),
            "script" => page.extend_from_slice(SCRIPT.as_bytes()),
            "style-hash" => page.extend_from_slice(base64(&Sha256::digest(STYLE)).as_bytes()),
            "script-hash" => page.extend_from_slice(base64(&Sha256::digest(SCRIPT)).as_bytes()),
            "meta" => embed(&meta.to_string(), &mut page),
            "index" => {
                page.push(b'[');
                for (i, one) in shown.iter().enumerate() {
                    page.extend_from_slice(if i == 0 { b"" } else { b"," });
                    embed(&one.entry.to_string(), &mut page);
                }
                page.push(b']');
            }
            "data" => {
                for one in shown {
                    page.push(b'\n');
                    embed(&one.data, &mut page);
                }
            }
            _ => unreachable!("the page has no place called {name}"),
        }
        rest = after;
    }
    page.extend_from_slice(rest.as_bytes());
    page
}

/// JSON as it may stand in a script element: `<` begins neither a tag nor a comment.
fn embed(json: &str, page: &mut Vec<u8>) {
    for (i, part) in json.split('<').enumerate() {
        page.extend_from_slice(if i == 0 { b"" } else { b"\\u003c" });
        page.extend_from_slice(part.as_bytes());
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word =
            three.iter().fold(0u32, |word, &byte| word << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit)) & 63;
            text.push(if digit <= three.len() { DIGITS[value as usize] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, code) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(text.as_bytes()), code);
        }
        assert_eq!(base64(&[0xff, 0xfe, 0xfd]), "//79");
    }

    /// The parts hold nothing that would end their element or fetch something, and every place is filled.
    #[test]
    fn the_page_stands_alone() {
        assert!(!SCRIPT.contains("</script") && !SCRIPT.contains("<!--") && !STYLE.contains("</style"));
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("] {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        let page = String::from_utf8(page(&Value::Null, &[])).unwrap();
        for word in ["src=", "url(", "@import", "https:", "//cdn"] {
            assert!(!page.contains(word), "{word}");
        }
        let links = page.matches("http://").count();
        assert_eq!(links, page.matches("http://www.w3.org/2000/svg").count(), "a name, never fetched");
        assert!(page.contains("<script type=\"application/json\" id=\"meta\">null</script>"));
    }
}
