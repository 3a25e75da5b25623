//! Cases 57 and 58 of the bad-input catalogue: a template that wants everything gets little, and takes nobody with it.

use crate::program::{Place, finish, tiny, wait};
use entropix::text::limits::TEMPLATE_PROCESS_BYTES;
use std::process::{Command, Stdio};
use std::time::Duration;

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

/// Peak of the resident memory of any process that `parent` began, in bytes.
fn peak_of_children(parent: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let peak = |child: &str| {
        let status = std::fs::read_to_string(format!("/proc/{child}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(peak.split_whitespace().next()?.parse::<u64>().ok()? << 10)
    };
    children.flat_map(|all| all.split_whitespace().filter_map(peak).max()).max().unwrap_or(0)
}

/// What bombs want is gibibytes; the process of the templates gets what the fence lets through.
#[test]
fn case_57_bombs_take_bounded_memory() {
    const MIB: u64 = 1 << 20;
    let model = tiny("llama-tied.Q4_1.gguf");
    let most = |template: &str| {
        let place = Place::new();
        place.put("own.jinja", template);
        place.put("in", "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"max_tokens\": 1}\n");
        let args = ["batch", "-i", "in", "-o", "out", "--threads", "1", "--chat-template", "own.jinja", "-m"];
        let mut command = place.command(args);
        command.arg(&model).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().unwrap();
        let id = child.id();
        let watch = std::thread::spawn(move || {
            let mut most = 0;
            // Until it is waited for it has a folder there, if an empty one.
            while std::path::Path::new(&format!("/proc/{id}")).exists() {
                most = most.max(peak_of_children(id));
                std::thread::sleep(Duration::from_micros(500));
            }
            most
        });
        let ended = wait(child, template);
        assert!([0, 3].contains(&ended.code), "{}", ended.stderr);
        watch.join().unwrap()
    };
    let bombs: Vec<u64> = bombs().iter().map(|(_, template)| most(template)).collect();
    assert!(bombs.iter().all(|peak| *peak <= TEMPLATE_PROCESS_BYTES), "{bombs:?}");
    // Some come near: it is they that are measured.
    assert!(bombs.iter().any(|peak| *peak > 128 * MIB), "{bombs:?}");
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

/// (what it is a chain of, the template): the parser follows each by recursion, some in quadratic time.
fn chains() -> Vec<(&'static str, String)> {
    // Where the chain itself says nothing, something is said.
    let chain = |n_bytes: usize, before: &str, link: &str, after: &str| {
        let room = n_bytes - "Hi ".len() - before.len() - after.len();
        format!("Hi {before}{}{after}", link.repeat(room / link.len()))
    };
    let whole = |link: &str| chain(1 << 20, "{{ a", link, " }}");
    vec![
        ("few minuses", chain(19_000, "{{ ", "-", "1 }}")),
        ("few elifs", chain(87_000, "{% if a %}", "{% elif a %}", "{% endif %}")),
        ("minuses", chain(1 << 20, "{{ ", "-", "1 }}")),
        ("nots", chain(1 << 20, "{{ ", "not ", "a }}")),
        ("elifs", chain(1 << 20, "{% if a %}", "{% elif a %}", "{% endif %}")),
        ("ternaries", whole(" if a else a")),
        ("sums", whole("+a")),
        ("strings", whole("~a")),
        ("powers", whole("**a")),
        ("ands", whole(" and a")),
        ("tests", whole(" is b")),
        ("attributes", whole(".a")),
        ("filters", whole("|e")),
        ("indices", whole("[0]")),
        ("calls", whole("()")),
    ]
}

const CHATS_AND_RAW: &str = "{\"id\": \"a\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n\
     {\"id\": \"raw\", \"prompt\": \"Hi\"}\n\
     {\"id\": \"b\", \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}]}\n";

/// `batch` with the template `source`.
fn batch_with(place: &Place, source: &str) -> Command {
    place.put("own.jinja", source);
    place.put("in", CHATS_AND_RAW);
    let model = tiny("llama-tied.Q4_1.gguf");
    let args =
        ["batch", "-i", "in", "-o", "out", "-n", "2", "--threads", "1", "--chat-template", "own.jinja", "-m"];
    let mut command = place.command(args);
    command.arg(model);
    command
}

/// A template is parsed where it is rendered: what overflows a stack or takes for ever fails the chats, not the job.
#[test]
fn case_57_the_parser_ends_alone() {
    let mut n_limits = 0;
    for (what, template) in chains() {
        let place = Place::new();
        let ended = finish(&mut batch_with(&place, &template), b"");
        let rows = place.rows("out");
        assert_eq!(rows.len(), 3, "{what}: {}", ended.stderr);
        for row in rows {
            // What fits into the stack is a template like others.
            let Some(code) = row["error"]["code"].as_str() else { continue };
            assert!(row["id"] != "raw" && ["TemplateLimit", "Template"].contains(&code), "{what}: {row}");
            ended.expect(3, "1 answered, 2 failed").expect(3, "--chat-template");
            n_limits += usize::from(code == "TemplateLimit");
        }
    }
    assert!(n_limits >= 6, "{n_limits} chats ended their process");
}

/// Constants that the parser folds are kept: 60 times 31 MB, by 1.3 KB.
#[test]
fn case_57_folded_constants_take_nothing_from_the_program() {
    let peak_of = |source: &str| {
        let place = Place::new();
        let mut command = batch_with(&place, source);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let status = format!("/proc/{}/status", child.id());
        // Gone when the program has ended: a process that is only waited for has no memory.
        let peak = std::thread::spawn(move || {
            let mut peak = 0;
            while let Some(kib) = high_water(&status) {
                peak = kib;
                std::thread::sleep(Duration::from_millis(2));
            }
            peak
        });
        let ended = wait(child, "batch with a template");
        (ended, peak.join().unwrap())
    };
    let (ended, plain) = peak_of("{{ messages[0].content }}");
    ended.expect(0, "3 answered");
    let (ended, bomb) = peak_of(&"{{ ('x' * 31000000) }}".repeat(60));
    ended.expect(3, "1 answered, 2 failed").expect(3, "TemplateLimit");
    assert!(
        plain > 1 << 10 && bomb < plain + (32 << 10),
        "{bomb} KiB, and {plain} KiB with a plain template"
    );
}

/// The most memory a process had so far, in KiB; none when it has none any more.
fn high_water(status: &str) -> Option<u64> {
    let status = std::fs::read_to_string(status).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A mistake is told before any work, with its place.
#[test]
fn case_56_a_mistake_is_told_at_once() {
    let place = Place::new();
    let ended = finish(&mut batch_with(&place, "one\n{% if %}"), b"");
    ended.expect(65, "own.jinja, line 2 of the chat template").expect(65, "--chat-template");
    assert!(!place.path("out").exists());
}
