use super::*;

/// The page of a file, its index and its answers.
struct Page {
    html: String,
    meta: Value,
    index: Vec<Value>,
    answers: Vec<Value>,
}

fn try_page(text: &str) -> Result<Page> {
    let report = Report::read(text.as_bytes(), Path::new("in.jsonl"))?;
    let (page, _) = report.page("in.jsonl", None, None)?;
    let html = String::from_utf8(page).unwrap();
    let element = |id: &str| {
        let (_, rest) = html.split_once(&format!("id=\"{id}\">")).unwrap();
        rest.split_once("</script>").unwrap().0.to_owned()
    };
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let (meta, index) = (read(&element("meta")), read(&element("index")));
    let answers = element("data").lines().filter(|line| !line.is_empty()).map(read).collect();
    Ok(Page { meta, index: index.as_array().unwrap().clone(), answers, html })
}

fn page(text: &str) -> Page {
    try_page(text).unwrap_or_else(|error| panic!("{error}"))
}

fn token(branch: u32, position: u64, text: &str, decision: &str) -> String {
    let value = json!({
        "event": "token", "id": "a", "choice": 0, "branch": branch, "position": position, "token": 7, "text": text,
        "entropy": 1.0 + f64::from(branch), "varentropy": 0.5, "logprob": -0.5, "region": "r", "decision": decision,
        "candidates": [[7, -0.5, text], [8, -1.5, "x"]],
    });
    format!("{value}\n")
}

const HEAD: &str = concat!(
    r#"{"event":"trace","format":2,"model":{"name":"m"},"seed":1,"policy":{"name":"p","regions":[]}}"#,
    "\n",
    r#"{"event":"request","id":"a","n":1,"messages":[{"role":"user","content":"Q"}]}"#,
    "\n"
);

fn done(discarded: u64) -> String {
    let usage = json!({"prompt_tokens": 5, "completion_tokens": 3, "discarded_tokens": discarded});
    format!("{}\n", json!({"event": "done", "id": "a", "choice": 0, "finish_reason": "stop", "usage": usage}))
}

/// A request that was tried again is one request, and a trace that another policy went on with says so.
#[test]
fn later_attempts_count() {
    let request = HEAD.lines().nth(1).unwrap();
    let failed = r#"{"event":"failed","id":"a","error":{"code":"E","message":"no"}}"#;
    let head = HEAD
        .lines()
        .next()
        .unwrap()
        .replace("\"p\"", "\"q\"")
        .replace("\"regions\"", "\"sha256\":\"1\",\"regions\"");
    let again = format!(
        "{HEAD}{failed}\n{request}\n{failed}\n{head}\n{request}\n{}{}",
        token(0, 5, "A", "draw"),
        done(0)
    );
    let page = page(&again);
    assert_eq!(
        (page.index.len(), &page.meta["totals"]["requests"], &page.meta["totals"]["failed"]),
        (1, &json!(1), &json!(0))
    );
    assert!(page.index[0].get("e").is_none(), "{}", page.index[0]);
    let notes = page.meta["notes"].to_string();
    assert!(notes.contains("another policy or model"), "{notes}");
    assert!(!super::tests::page(HEAD).meta["notes"].to_string().contains("another policy"));
}

/// A branch whose second line wins, then a return: the answer is the tokens that are left, what went is told with its
/// cost, and the places lead to the tokens.
#[test]
fn stories_are_followed() {
    let text = [
        HEAD.to_owned(),
        token(0, 5, "A", "draw"),
        r#"{"event":"fork","id":"a","choice":0,"branch":0,"children":[{"branch":1,"position":6}],"decision":"branch","region":"r"}
"#.into(),
        token(0, 6, "B", "branch"),
        token(1, 6, "C", "branch"),
        r#"{"event":"join","id":"a","choice":0,"branch":1,"scores":[{"branch":0,"score":-2.0},{"branch":1,"score":-1.0}],"discarded_tokens":1}
"#.into(),
        token(1, 7, "D", "draw"),
        r#"{"event":"retract","id":"a","choice":0,"branch":1,"position":7,"region":"r","discarded_tokens":2}
"#.into(),
        token(1, 7, "E", "rewind"),
        done(3),
    ]
    .concat();
    let page = page(&text);
    let choice = &page.answers[0]["c"][0];
    let said = |places: &Value| -> String {
        places
            .as_array()
            .unwrap()
            .iter()
            .map(|k| choice["t"][k.as_u64().unwrap() as usize].as_str().unwrap())
            .collect()
    };
    assert_eq!(said(&choice["w"]), "ACE");
    let (branch, rewind) = (&choice["e"][0], &choice["e"][1]);
    assert_eq!((&branch["k"], &branch["at"], &branch["x"]), (&json!("branch"), &json!(1), &json!(1)));
    assert_eq!(
        (said(&branch["l"][0]["i"]), said(&branch["l"][1]["i"]), said(&branch["before"])),
        ("B".into(), "C".into(), "A".into())
    );
    assert_eq!(
        (&branch["l"][0]["w"], &branch["l"][1]["w"], &branch["l"][1]["s"]),
        (&json!(false), &json!(true), &json!(-1.0))
    );
    assert_eq!((said(&rewind["i"]), &rewind["at"], &rewind["gone"]), ("D".into(), &json!(2), &Value::Null));
    assert_eq!(page.answers[0]["q"], json!([["user", "Q"]]));
    let cost = |kind: &str| {
        let all = page.meta["totals"]["decisions"].as_array().unwrap();
        all.iter().find(|one| one["kind"] == kind).unwrap().clone()
    };
    assert_eq!(cost("branch"), json!({"kind": "branch", "tokens": 1, "times": 1, "discarded": 1}));
    assert_eq!(cost("rewind"), json!({"kind": "rewind", "tokens": 1, "times": 1, "discarded": 2}));
    assert_eq!((&page.meta["totals"]["discarded"], &page.index[0]["x"]), (&json!(3), &json!(3)));
    assert_eq!(page.index[0]["d"], json!({"draw": 1, "branch": 1, "rewind": 1}));
}

/// Whatever ids, prompts, answers, policies and errors hold, it is data: nothing of it can end an element or begin one.
#[test]
fn nothing_becomes_markup() {
    let evil = "</script><script>alert(1)</script><!--<img src=x onerror=alert(1)>&\u{2028}\"'";
    let row = json!({"id": evil, "request": evil, "text": evil, "tokens": [1], "finish_reason": evil, "reason": evil,
        "signals": {"entropy": [1.0], "varentropy": [1.0], "logprob": [-1.0], "region": [evil], "decision": ["draw"], "text_offset": [0]}});
    let failed = json!({"id": "b", "request": "x", "error": {"code": evil, "message": evil}});
    let clean = page(&format!("{}\n", json!({"id": "a", "text": "x"})));
    let trace = HEAD.replace("\"Q\"", &json!(evil).to_string()).replace("\"p\"", &json!(evil).to_string());
    for text in [format!("{row}\n{failed}\n"), trace + &token(0, 5, evil, "draw") + &done(0)] {
        let page = page(&text);
        assert_eq!(
            page.html.matches('<').count(),
            clean.html.matches('<').count(),
            "no < of the data is left"
        );
        let told = format!("{}{:?}{:?}", page.meta, page.index, page.answers);
        assert!(told.contains("alert(1)"), "and nothing is lost");
    }
}

/// An answer may fork before its first token.
#[test]
fn the_first_token_may_be_a_choice() {
    let text = [
        HEAD.to_owned(),
        r#"{"event":"fork","id":"a","choice":0,"branch":0,"children":[{"branch":1,"position":5}],"decision":"branch","region":"r"}
"#.into(),
        token(0, 5, "B", "branch"),
        token(1, 5, "C", "branch"),
        r#"{"event":"join","id":"a","choice":0,"branch":1,"scores":[{"branch":0,"score":null},{"branch":1,"score":-1.0}],"discarded_tokens":1}
"#.into(),
        token(1, 6, "D", "draw"),
        done(1),
    ]
    .concat();
    let choice = page(&text).answers[0]["c"][0].clone();
    assert_eq!((&choice["w"], &choice["e"][0]["at"]), (&json!([1, 2]), &json!(0)));
}

#[test]
fn outputs_of_every_form() {
    let signals = json!({"entropy": [0.5, 1.5], "varentropy": [0.1, null], "logprob": [-0.1, -1.0], "region": ["a", "b"], "decision": ["argmax", "draw"], "text_offset": [0, 1]});
    let short = json!({"id": "s", "request": "0", "text": "é!", "tokens": [5, 6], "finish_reason": "length", "usage": {"prompt_tokens": 3, "completion_tokens": 2, "discarded_tokens": 4}, "signals": signals});
    let several = json!({"id": "n", "request": "0", "choices": [{"text": "x", "tokens": [1]}, {"text": "y", "tokens": [2]}]});
    let chat = json!({"id": "batch_req_0", "custom_id": "o", "response": {"body": {"choices": [{"message": {"role": "assistant", "content": "é!"}, "finish_reason": "stop", "entropix": {"tokens": [5, 6], "discarded_tokens": 1, "signals": signals}}], "usage": {"prompt_tokens": 9, "completion_tokens": 2}}}, "error": null});
    let scored = json!({"id": "t", "request": "0", "tokens": [1, 2], "logprobs": [null, -0.5], "entropy": [0.1, 0.2], "varentropy": [0.3, 0.4]});
    let page = page(&format!("{short}\n{several}\n{chat}\n{scored}\n"));
    assert_eq!(page.meta["kind"], "tokens");
    let of = |id: &str| page.index.iter().position(|entry| entry["id"] == id).unwrap();
    for id in ["s", "o"] {
        let choice = &page.answers[of(id)]["c"][0];
        assert_eq!((&choice["t"], &choice["d"]), (&json!(["é", "!"]), &json!([0, 1])), "{id}");
        assert_eq!(page.index[of(id)]["h"], json!(0.5), "{id}: the mean of what is there");
    }
    assert_eq!((&page.index[of("s")]["x"], &page.index[of("o")]["x"]), (&json!(4), &json!(1)));
    assert_eq!(page.answers[of("n")]["c"].as_array().unwrap().len(), 2);
    assert_eq!(page.answers[of("t")]["c"][0]["o"], json!([1, 2]));
    let summary = json!({"id": "a", "text": "x", "tokens": [1], "signals": {"mean_H": 0.3, "max_H": 0.5, "p95_H": 0.5, "mean_V": 0.5, "n_draw": 7, "extra_tokens": 2}});
    let page = self::page(&format!("{summary}\n"));
    assert_eq!((&page.meta["kind"], &page.index[0]["h"]), (&json!("summary"), &json!(0.3)));
    assert_eq!(page.meta["totals"]["decisions"][1]["tokens"], 7);
    assert!(page.meta["notes"][0].as_str().unwrap().contains("--signals token"));
}

/// Sorted by doubt, the most doubtful first, failures before them.
#[test]
fn answers_are_sorted_by_doubt() {
    let row = |id: &str, h: f64| {
        json!({"id": id, "text": "x", "tokens": [1], "signals": {"mean_H": h, "mean_V": 0.0}}).to_string()
            + "\n"
    };
    let failed = json!({"id": "f", "error": {"code": "c", "message": "m"}}).to_string() + "\n";
    let page = page(&[row("a", 0.5), row("b", 2.0), failed, row("c", 1.0)].concat());
    let ids: Vec<_> = page.index.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["f", "b", "c", "a"]);
}

/// Bad input is an error that names the line; only a torn last line is left out.
#[test]
fn bad_lines_are_named() {
    let good = "{\"id\": \"a\", \"text\": \"x\"}\n";
    let lone = |event: &str| format!("{HEAD}{event}\n");
    let branch = |more: &str| lone(&format!("{}{more}", token(0, 5, "A", "draw")));
    let fork = |position: u64| {
        format!(
            r#"{{"event":"fork","id":"a","branch":0,"children":[{{"branch":1,"position":{position}}}],"decision":"branch"}}"#
        )
    };
    for (text, place, told) in [
        (format!("{good}{{\n{good}"), "in.jsonl:2:", "EOF"),
        (format!("{good}[]\n"), "in.jsonl:2:", ""),
        (format!("{good}{{\"id\": \"b\"}}\n"), "in.jsonl:2:", "neither"),
        ("{\"id\": \"a\", \"text\": \"x\", \"tokens\": [1], \"signals\": {\"entropy\": [1, 2], \"varentropy\": [1]}}\n".into(), "in.jsonl:1:", "2 entries of entropy"),
        ("{\"id\": \"a\", \"text\": \"x\", \"tokens\": [1, 2], \"signals\": {\"entropy\": [1, 2], \"varentropy\": [1, 2], \"text_offset\": [0, 9]}}\n".into(), "in.jsonl:1:", "text_offset"),
        (lone(r#"{"event":"token","id":"a","token":1}"#), "in.jsonl:3:", "position"),
        (lone(r#"{"event":"join","id":"a","branch":0}"#), "in.jsonl:3:", "no contest"),
        (branch(&token(0, 9, "B", "draw")), "in.jsonl:4:", "its next is 6"),
        (branch(&token(3, 6, "B", "draw")), "in.jsonl:4:", "not there"),
        (branch(&fork(99)), "in.jsonl:4:", "none at position 99"),
        (branch(&fork(1)), "in.jsonl:4:", "none at position 1"),
        (branch(r#"{"event":"retract","id":"a","branch":0,"position":18446744073709551615}"#), "in.jsonl:4:", "none at"),
        (branch(&fork(6).replace("\"branch\"}", "\"nothing\"}")), "in.jsonl:4:", "no decision"),
        ("{\"event\":\"trace\",\"policy\":{\"name\":\"p\",\"regions\":[{\"name\":\"r\",\"decision\":\"<b>\",\"bounds\":{},\"conditions\":[]}]}}\n".into(), "in.jsonl:1:", "no decision"),
    ] {
        let error = try_page(&text).map(|_| ()).unwrap_err();
        assert_eq!((error.class, error.code), (Class::Data, "Report"), "{text}");
        assert!(error.message.contains(place) && error.message.contains(told), "{text}\n{}", error.message);
    }
    let torn = page(&format!("{good}{{\"id\": \"b\", \"te"));
    assert!(torn.index.len() == 1 && torn.meta["notes"].to_string().contains("torn"));
    assert_eq!(page("").index.len(), 0);
}
