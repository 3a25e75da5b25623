//! `report` end to end: pages of traces and outputs, and what it refuses.

use crate::program::Place;
use serde_json::Value;

fn prompts() -> String {
    (0..3)
        .map(|i| format!("{{\"id\": \"r{i}\", \"prompt\": \"Once upon {i}\", \"max_tokens\": 8}}\n"))
        .collect()
}

fn element(page: &str, id: &str) -> Value {
    let (_, rest) = page.split_once(&format!("id=\"{id}\">")).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn jobs_are_drawn() {
    let place = Place::new();
    place.batch(prompts(), &["--signals", "token", "--trace", "trace", "--policy", "sample"]).expect(0, "");
    for (input, kind) in [("trace", "trace"), ("out", "tokens")] {
        place.run(["report", input, "-o", "page.html", "--overwrite"]).expect(0, "3 requests");
        let page = std::fs::read_to_string(place.path("page.html")).unwrap();
        let meta = element(&page, "meta");
        assert_eq!((&meta["kind"], &meta["policy"]["name"]), (&Value::from(kind), &Value::from("sample")));
        assert_eq!(
            (&meta["model"]["name"], &meta["seed"]),
            (&Value::from("llama-tied.Q4_1"), &Value::from(0))
        );
        assert_eq!(element(&page, "index").as_array().unwrap().len(), 3);
    }
    place.batch(prompts(), &["--overwrite", "--signals", "off"]).expect(0, "");
    place.run(["report", "out", "-o", "page.html", "--overwrite"]).expect(0, "--signals token");
}

#[test]
fn what_is_there_stays_and_bad_files_are_named() {
    let place = Place::new();
    place.put("in.jsonl", "{\"id\": \"a\", \"text\": \"x\"}\n");
    place.put("page.html", "mine");
    place.run(["report", "in.jsonl", "-o", "page.html"]).expect(64, "--overwrite");
    assert_eq!(std::fs::read(place.path("page.html")).unwrap(), b"mine");
    place.run(["report", "in.jsonl", "-o", "in.jsonl", "--overwrite"]).expect(64, "same file");
    place.put("bad.jsonl", "{\"id\": \"a\", \"text\": \"x\"}\n{\"event\": 3}\n");
    place.run(["report", "bad.jsonl", "-o", "page.html", "--overwrite"]).expect(65, "bad.jsonl:2:");
    assert_eq!(std::fs::read(place.path("page.html")).unwrap(), b"mine", "and nothing is begun");
    place.run(["report", "nowhere", "-o", "page.html", "--overwrite"]).expect(66, "nowhere");
    place.run(["report", ".", "-o", "page.html", "--overwrite"]).expect(66, "is a folder");
}
