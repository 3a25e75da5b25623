//! The fuzz target `template` renders what it can: at least the seeds that are made for it, and nothing that doubles.
#![forbid(unsafe_code)]

#[path = "../fuzz/src/templates.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets use it too")]
mod templates;

use entropix::text::ChatTemplate;
use std::path::Path;
use templates::{chat, folds_much, may_grow};

/// Seeds that no published template gave.
const MADE: [&str; 6] =
    ["default-system", "named-by-role", "plain-names", "strict-turns", "thinking", "tools"];

#[test]
fn seeds_are_rendered() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/template");
    let (messages, options) = chat();
    let mut rendered = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let source = std::fs::read_to_string(entry.path()).unwrap();
        let template = ChatTemplate::new(&source, &name).unwrap();
        template.check().unwrap();
        assert!(!folds_much(&source), "{name} is not even parsed");
        if !may_grow(&source) {
            // A template may refuse the chat.
            let Ok(text) = template.render(&messages, &options) else { continue };
            assert!(text.text().contains("Yes."), "{name}: {}", text.text());
            rendered.push(name);
        }
    }
    for name in MADE {
        assert!(rendered.iter().any(|it| it == name), "{name} is not rendered; these are: {rendered:?}");
    }
}

#[test]
fn what_doubles_is_not_rendered() {
    for source in [
        "{% set a = a ~ a %}",
        "{% set a = [a, a] %}",
        "{% set a = {'x': a} %}",
        "{% set a = '{0}{0}'.format(a) %}",
        "{% set a = '%}' ~ a ~ a %}",
        "{% set a %}{{ a }}{{ a }}{% endset %}",
        "{% with a = a + a %}{% endwith %}",
        "{% for a in [a + a] %}{% endfor %}",
        "{%- for a in b recursive -%}{{ loop(b) }}{%- endfor -%}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}",
        "{% filter upper %}{% endfilter %}",
        "{% set n = namespace() %}{% set n.a = n %}{{ n }}",
        "{% set n = namespace() %}{% set n.a = [n.a] %}{{ n }}",
        "{# {{ #}{% set a = a ~ a %}{# }} #}",
        "{{ 'x' * 31000000 }}",
        "{{ 'x' * 0xfffffff }}",
        "{{ 'x' * 999 * 999 }}",
        "{{ 'x'|indent(32000000) }}",
    ] {
        assert!(may_grow(source), "{source}");
    }
    for source in ["{{ 'x' * 31000000 }}", "{{ [1] * 999 * 999 }}", "{{ 9 ** 9 }}"] {
        assert!(folds_much(source), "{source}");
    }
    for source in [
        "",
        "{{ a ~ a + a }}",
        "{% set a = messages[0].content|trim %}",
        "{{ 'x' * 3 }}",
        "{% if a + a %}x{% endif %}",
    ] {
        assert!(!may_grow(source), "{source}");
    }
}
