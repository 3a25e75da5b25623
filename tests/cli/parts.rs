//! Parts of a job are the whole job, and are made one when they are whole and belong together.

use crate::program::{Place, finish, tiny};
use crate::resume::{line, requests, sorted};

const USAGE: i32 = 64;
const DATA: i32 = 65;
const TEMP: i32 = 75;
const CONFIG: i32 = 78;
const FAILED_ROWS: i32 = 3;

#[test]
fn shards_are_the_whole_job() {
    let place = Place::new();
    let input = requests(20) + "{\"prompt\": \"no id\", \"max_tokens\": 3}\n";
    place.batch(&input, &[]).expect(0, "21 answered");
    let model = tiny("llama-tied.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let mut all = String::new();
    for i in 0..3 {
        let (name, shard) = (format!("part{i}"), format!("{i}/3"));
        place.run(["batch", "-i", "in", "-o", &name, "-m", model, "--shard", &shard]).expect(0, "answered");
        let rows = place.rows(&name).len();
        assert!((2..12).contains(&rows), "part {i} has {rows} rows");
        all += &std::fs::read_to_string(place.path(&name)).unwrap();
    }
    place.put("all", all);
    assert_eq!(sorted(&place, "all"), sorted(&place, "out"));
    // The same from what a cluster says.
    let mut command = place.command(["batch", "-i", "in", "-o", "auto", "-m", model, "--shard", "auto"]);
    command
        .env("SLURM_ARRAY_TASK_ID", "2")
        .env("SLURM_ARRAY_TASK_MIN", "1")
        .env("SLURM_ARRAY_TASK_COUNT", "3");
    finish(&mut command, b"").expect(0, "answered");
    assert_eq!(sorted(&place, "auto"), sorted(&place, "part1"));
    let mut command = place.command(["batch", "-i", "in", "-o", "auto", "-m", model, "--shard", "auto/3"]);
    finish(command.env("JOB_COMPLETION_INDEX", "1"), b"").expect(0, "by earlier runs");
    place.run(["batch", "-i", "in", "-o", "x", "--shard", "auto"]).expect(USAGE, "is set; say I/N");
}

#[test]
fn parts_are_merged_when_they_belong_together() {
    let place = Place::new();
    let long = "i".repeat(200);
    let input =
        requests(15) + &line(&format!("{long}2"), "x") + &line(&format!("{long}1"), "y") + &line("e", "");
    place.batch(&input, &["--signals", "token"]).expect(FAILED_ROWS, "17 answered");
    let model = tiny("llama-tied.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let part = |i: usize, more: &[&str]| {
        let (name, shard) = (format!("part{i}"), format!("{i}/3"));
        let args = ["batch", "-i", "in", "-o", &name, "-m", model, "--signals", "token", "--shard", &shard];
        place.run(args.iter().chain(more))
    };
    (0..3).for_each(|i| drop(part(i, &[])));
    let merge =
        |parts: &[&str], more: &[&str]| place.run(["merge", "-o", "merged"].iter().chain(parts).chain(more));
    merge(&["part2", "part0", "part1"], &[]).expect(0, "18 lines, 1 of them failed");
    let merged = std::fs::read_to_string(place.path("merged")).unwrap();
    assert_eq!(merged, sorted(&place, "out") + "\n");
    // What was merged is an output like any other.
    let args = ["batch", "-i", "in", "-o", "merged", "-m", model, "--signals", "token"];
    place.run(args).expect(FAILED_ROWS, "18 by earlier runs");

    merge(&["part0", "part1", "part2"], &[]).expect(USAGE, "--overwrite");
    let overwrite = ["--overwrite"];
    merge(&["part0", "part1"], &overwrite).expect(CONFIG, "these are the parts 0/3, 1/3");
    merge(&["part0", "part1", "part1"], &overwrite).expect(CONFIG, "these are the parts");
    merge(&["part0", "part1"], &["--overwrite", "--force"]).expect(0, "lines");
    merge(&["part0", "part1", "in"], &overwrite).expect(66, "no manifest beside it");
    place
        .run(["merge", "-o", "part0", "part0", "part1", "part2"])
        .expect(USAGE, "--output and a part are the same file");
    let manifest = "part0.manifest.json";
    let named = place.run(["merge", "-o", manifest, "part0", "part1", "part2", "--overwrite"]);
    named.expect(USAGE, "are the same file");
    part(1, &["--overwrite", "--seed", "1"]);
    merge(&["part0", "part1", "part2"], &overwrite).expect(CONFIG, "seed was 0, is 1");
    part(1, &["--overwrite"]);
    let text = std::fs::read_to_string(place.path("part1")).unwrap();
    let last = text.trim_end().rfind('\n').unwrap() + 1;
    std::fs::write(place.path("part1"), &text[..last]).unwrap();
    merge(&["part0", "part1", "part2"], &overwrite).expect(CONFIG, "give its job again");
    std::fs::write(place.path("part1"), &text[..last + 9]).unwrap();
    merge(&["part0", "part1", "part2"], &overwrite).expect(DATA, "torn");
    std::fs::write(place.path("part1"), &text).unwrap();
    merge(&["part0", "part1", "part2"], &overwrite).expect(0, "18 lines");
    assert_eq!(std::fs::read_to_string(place.path("merged")).unwrap(), merged);
}

/// Parts of which nobody knows whether they are whole are not made one.
#[test]
fn parts_that_are_not_known_to_be_whole_are_not_merged() {
    let place = Place::new();
    place.batch(line("a", "x") + "no JSON\n", &["--no-validate", "-b", "1"]).expect(DATA, "correct it");
    place.run(["merge", "-o", "whole", "out"]).expect(CONFIG, "nobody knows how many");
    place.run(["merge", "-o", "whole", "out", "--force"]).expect(0, "whole: 0 lines");
}

#[test]
fn merging_waits_for_who_writes() {
    let place = Place::new();
    for (i, name) in ["0/2", "1/2"].iter().enumerate() {
        place.batch(requests(6), &["--shard", name]).expect(0, "");
        for ending in ["", ".manifest.json"] {
            std::fs::rename(place.path(&format!("out{ending}")), place.path(&format!("part{i}{ending}")))
                .unwrap();
        }
    }
    let merge = || place.run(["merge", "-o", "out", "part0", "part1", "--overwrite"]);
    for name in ["out", "part1"] {
        std::fs::File::options().append(true).create(true).open(place.path(name)).unwrap();
        let held = std::fs::File::open(place.path(name)).unwrap();
        held.lock().unwrap();
        merge().expect(TEMP, "another job");
        held.unlock().unwrap();
    }
    merge().expect(0, "6 lines");
}

/// A share of what the whole job answers is none of what a part does.
#[test]
fn parts_have_no_limit_of_the_whole() {
    let place = Place::new();
    let ended = place.batch(requests(2), &["--shard", "0/2", "--extra-tokens", "0.1"]);
    ended.expect(USAGE, "leave one of them out");
    place.batch(requests(2), &["--shard", "0/1", "--extra-tokens", "0.1"]).expect(0, "");
}

/// Whatever their manifests say: what is counted there is bounded by what is given.
#[test]
fn manifests_of_parts_can_say_anything() {
    let place = Place::new();
    place.put("in", requests(6));
    let model = tiny("llama-tied.Q4_1.gguf");
    for i in 0..2 {
        let (name, shard) = (format!("part{i}"), format!("{i}/2"));
        let args = ["batch", "-i", "in", "-o", &name, "-m", model.to_str().unwrap(), "--shard", &shard];
        place.run(args).expect(0, "answered");
    }
    let change = |i: usize, from: &str, to: &str| {
        let name = format!("part{i}.manifest.json");
        let text = std::fs::read_to_string(place.path(&name)).unwrap();
        assert!(text.contains(from), "{text}");
        place.put(&name, text.replace(from, to));
        text
    };
    let merge = |more: &[&str]| place.run(["merge", "-o", "merged", "part0", "part1"].iter().chain(more));
    let good = change(0, "\"0/2\"", "\"0/4294967295\"");
    let ended = merge(&[]);
    ended.expect(CONFIG, "wanted is each from 0/");
    assert!(ended.stderr.len() < 1000, "{} bytes of message", ended.stderr.len());
    place.put("part0.manifest.json", &good);
    for i in 0..2 {
        let n = place.rows(&format!("part{i}")).len();
        change(i, &format!("\"requests\": {n}"), "\"requests\": 18446744073709551615");
    }
    merge(&["--force"]).expect(0, "6 lines");
    let manifest = std::fs::read_to_string(place.path("merged.manifest.json")).unwrap();
    assert!(manifest.contains("\"requests\": null"), "{manifest}");
    // What stands in the place of the manifest to be and is none is somebody's.
    place.put("other.manifest.json", "precious");
    place
        .run(["merge", "-o", "other", "part0", "part1", "--force"])
        .expect(CONFIG, "is no manifest of a job");
    assert_eq!(std::fs::read_to_string(place.path("other.manifest.json")).unwrap(), "precious");
}

/// The day is part of a job only where a template asks for it.
#[test]
fn parts_of_two_days_belong_together() {
    let place = Place::new();
    place.put("in", requests(6));
    let model = tiny("llama-tied.Q4_1.gguf");
    let template = place.put("dated.jinja", "{{ strftime_now('%d') }} {{ messages[0].content }}");
    let part = |i: usize, more: &[&str]| {
        let (name, shard, date) = (format!("part{i}"), format!("{i}/2"), format!("2026-01-0{}", i + 1));
        let args = ["batch", "-i", "in", "-o", &name, "-m", model.to_str().unwrap(), "--shard", &shard];
        let more = [&["--date", &date, "--overwrite"], more].concat();
        place.run(args.iter().chain(&more)).expect(0, "answered");
    };
    let merge = || place.run(["merge", "-o", "merged", "part0", "part1", "--overwrite"]);
    (0..2).for_each(|i| part(i, &[]));
    merge().expect(0, "6 lines");
    (0..2).for_each(|i| part(i, &["--chat-template", template.to_str().unwrap()]));
    merge().expect(CONFIG, "the date was 2026-01-01, is 2026-01-02");
}
