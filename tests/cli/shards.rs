//! The recipes of docs/jobs.md, as they stand there.

use crate::program::{Place, finish, tiny};
use std::path::Path;
use std::process::Command;

/// The code blocks of the page that are of this kind.
fn blocks(kind: &str) -> Vec<String> {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/jobs.md")).unwrap();
    let fence = format!("```{kind}\n");
    page.split(fence.as_str()).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// A folder with a model and prompts of these names.
fn place() -> Place {
    let place = Place::new();
    std::fs::copy(tiny("llama-tied.Q4_1.gguf"), place.path("model.gguf")).unwrap();
    let line = |i: usize| format!("{{\"id\": \"r{i}\", \"prompt\": \"Once {i}\", \"max_tokens\": 4}}\n");
    place.put("prompts.jsonl", (0..40).map(line).collect::<String>());
    place
}

/// A shell there, which finds the program.
fn shell(place: &Place, script: &str, variables: &[(&str, &str)]) {
    let folder = Path::new(env!("CARGO_BIN_EXE_entropix")).parent().unwrap().to_str().unwrap();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap());
    let mut command = Command::new("sh");
    command.args(["-eu", "-c", script]).current_dir(place.path("")).env("PATH", path);
    command.env("XDG_CACHE_HOME", place.path("cache")).envs(variables.iter().copied());
    finish(&mut command, b"").expect(0, "");
}

/// The lines of all parts; every part has some, or nothing was divided.
fn parts(place: &Place) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for i in 0..4 {
        let text = std::fs::read_to_string(place.path(&format!("part-{i}.jsonl"))).unwrap();
        assert!((3..20).contains(&text.lines().count()), "part {i}: {text}");
        lines.extend(text.lines().map(str::to_owned));
    }
    lines.sort();
    lines
}

#[test]
fn the_recipes_work() {
    let whole = place();
    whole.run(["batch", "-m", "model.gguf", "-i", "prompts.jsonl", "-o", "whole"]).expect(0, "40 answered");
    let text = std::fs::read_to_string(whole.path("whole")).unwrap();
    let mut expected: Vec<&str> = text.lines().collect();
    expected.sort_unstable();

    let [serial, parallel, merge, slurm] = <[String; 4]>::try_from(blocks("sh")).unwrap();
    for recipe in [serial, parallel] {
        let place = place();
        shell(&place, &recipe, &[]);
        assert_eq!(parts(&place), expected, "{recipe}");
        shell(&place, &merge, &[]);
        let answers = std::fs::read_to_string(place.path("answers.jsonl")).unwrap();
        assert_eq!(answers.lines().collect::<Vec<_>>(), expected, "{recipe}");
    }

    // As Slurm sets them for --array=0-12:4 too.
    for step in [1, 4] {
        let place = place();
        for i in 0..4 {
            let id = (i * step).to_string();
            let own = slurm.replace("$SLURM_ARRAY_TASK_ID", &i.to_string());
            shell(
                &place,
                &own,
                &[
                    ("SLURM_ARRAY_TASK_ID", id.as_str()),
                    ("SLURM_ARRAY_TASK_MIN", "0"),
                    ("SLURM_ARRAY_TASK_STEP", &step.to_string()),
                    ("SLURM_ARRAY_TASK_COUNT", "4"),
                    ("SLURM_CPUS_PER_TASK", "2"),
                ],
            );
        }
        assert_eq!(parts(&place), expected, "steps of {step}");
    }

    let place = place();
    let [manifest] = <[String; 1]>::try_from(blocks("yaml")).unwrap();
    let command = manifest.lines().find_map(|line| line.trim().strip_prefix("- entropix ")).unwrap();
    for i in ["0", "1", "2", "3"] {
        shell(&place, &format!("entropix {command}"), &[("JOB_COMPLETION_INDEX", i)]);
    }
    assert_eq!(parts(&place), expected);
}
