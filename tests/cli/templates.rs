//! Cases 57 and 58 of the bad-input catalogue: a template that wants everything gets little, and takes nobody with it.

use crate::program::{Place, tiny};

/// (what it does, the template): each either wants more memory or time than there is, or something there is not.
fn bombs() -> Vec<(&'static str, String)> {
    let doubling = |grow: &str| {
        format!(
            "{{% set ns = namespace(x='x') %}}{{% for i in range(60) %}}{grow}{{% endfor %}}{{{{ ns.x }}}}"
        )
    };
    vec![
        ("strings doubled with ~", doubling("{% set ns.x = ns.x ~ ns.x %}")),
        ("strings doubled with +", doubling("{% set ns.x = ns.x + ns.x %}")),
        (
            "strings doubled in a block",
            doubling("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
        ),
        (
            "lists doubled",
            "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}\
             {{ ns.x | length }}{{ ns.x }}"
                .into(),
        ),
        ("indent", "{{ 'a\nb' | indent(4000000000) }}".into()),
        ("a string times eight thousand million", "{{ 'x' * 8000000000 }}".into()),
        (
            "replace grows itself",
            "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(20) %}\
             {% set ns.x = ns.x | replace('a', ns.x) %}{% endfor %}{{ ns.x }}"
                .into(),
        ),
        ("a namespace within itself", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".into()),
        (
            "loops in loops",
            "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}".into(),
        ),
        ("a macro that calls itself", "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}".into()),
        (
            "output without end",
            "{% set x = 'x' * 1000000 %}{% for i in range(100000) %}{{ x }}{% endfor %}".into(),
        ),
    ]
}

#[test]
fn case_57_bombs_end_alone() {
    let model = tiny("llama-tied.Q4_1.gguf");
    for (what, template) in bombs() {
        let place = Place::new();
        place.put("bomb.jinja", template);
        let chat = |id: &str| {
            format!("{{\"id\": {id:?}, \"messages\": [{{\"role\": \"user\", \"content\": \"Hi\"}}]}}\n")
        };
        let raw = "{\"id\": \"raw\", \"prompt\": \"Hi\"}\n";
        place.put("in", chat("a") + raw + &chat("b"));
        let args = ["batch", "-i", "in", "-o", "out", "-n", "2", "-m", model.to_str().unwrap()];
        let ended = place.run(args.iter().chain(&["--chat-template", "bomb.jinja"]));
        ended.expect(3, "1 answered, 2 failed");
        for row in place.rows("out") {
            match row["id"].as_str().unwrap() {
                "raw" => assert!(row["text"].is_string()),
                _ => assert!(
                    ["TemplateLimit", "Template"].contains(&row["error"]["code"].as_str().unwrap()),
                    "{what}: {row}"
                ),
            }
        }
    }
}

/// The fence does not change what a template says, nor what it may not do.
#[test]
fn case_58_templates_reach_nothing() {
    let place = Place::new();
    let model = tiny("llama-tied.Q4_1.gguf");
    place.put("in", "{\"id\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n");
    let args = ["batch", "-i", "in", "-o", "out", "-n", "1", "-m", model.to_str().unwrap(), "--overwrite"];
    for (template, told) in [
        ("{% include '/etc/passwd' %}", "template not found"),
        ("{% import '/etc/passwd' as x %}{{ x.y }}", "template not found"),
        ("{{ ''.__class__.__mro__ }}", "undefined"),
        ("{{ env['HOME'] }}", "undefined"),
        ("{{ now() }}", "unknown"),
        ("{{ raise_exception('no such chat') }}", "no such chat"),
    ] {
        place.put("own.jinja", template);
        let ended = place.run(args.iter().chain(&["--chat-template", "own.jinja"]));
        ended.expect(3, "Template").expect(3, told);
    }
}
