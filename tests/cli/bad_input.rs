//! Cases 61 to 79 of the bad-input catalogue as far as they touch what exists, by number: the class as exit
//! code, no panic, no signal, no hang, nothing half-written presented as whole.

use crate::program::{Place, finish, tiny};
use std::process::{Command, Stdio};

const OK: i32 = 0;
const FAILED_ROWS: i32 = 3;
const USAGE: i32 = 64;
const DATA: i32 = 65;
const NO_INPUT: i32 = 66;
const UNSUPPORTED: i32 = 69;
const IO: i32 = 74;
const CONFIG: i32 = 78;

/// (case, input, exit code, what standard error says)
fn inputs() -> Vec<(&'static str, Vec<u8>, i32, &'static str)> {
    let short = |fields: &str| format!("{{\"prompt\": \"x\", \"max_tokens\": 1, {fields}}}").into_bytes();
    let bytes = |text: &str| text.as_bytes().to_vec();
    let good = r#"{"prompt": "x", "max_tokens": 1}"#;
    let many_stops = format!("\"stop\": [{}]", vec!["\"x\""; 10_000].join(","));
    let mut cases = vec![
        ("61 empty", bytes(""), OK, "0 answered"),
        ("61 blank lines", bytes("\n  \r\n\n"), OK, "0 answered"),
        (
            "62 bad JSON on line 3",
            bytes(&format!("{good}\n{good}\n{{\"prompt\": \"x\",}}\n")),
            DATA,
            "in:3:16: ",
        ),
        ("63 invalid UTF-8", b"{\"prompt\": \"\xff\"}".to_vec(), DATA, "in:1:13: byte 0xff"),
        ("63 lone surrogate", bytes(r#"{"prompt": "\ud800"}"#), DATA, "in:1:"),
        ("63 NUL", bytes(r#"{"prompt": "a\u0000b", "max_tokens": 1}"#), OK, "1 answered"),
        ("63 BOM", bytes(&format!("\u{feff}{good}\n")), OK, "1 answered"),
        ("63 CRLF", bytes(&format!("{good}\r\n")), OK, "1 answered"),
        (
            "64 no last line end",
            bytes(&format!("{good}\n{{\"prompt\": \"y\", \"max_tokens\": 1}}")),
            OK,
            "2 answered",
        ),
        ("65 a million brackets", bytes(&format!("{{\"prompt\": {}", "[".repeat(1_000_000))), DATA, "in:1:"),
        (
            "65 brackets that close",
            bytes(&format!("{{\"prompt\": {}{}}}", "[".repeat(100_000), "]".repeat(100_000))),
            DATA,
            "in:1:",
        ),
        (
            "66 duplicate id",
            bytes("{\"id\":\"a\",\"prompt\":\"x\"}\n{\"id\":\"a\",\"prompt\":\"y\"}\n"),
            DATA,
            "in:2:2: the id \"a\" stands on line 1",
        ),
        (
            "66 duplicate custom_id",
            bytes(concat!(
                "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"x\"}}\n",
                "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"y\"}}\n"
            )),
            DATA,
            "stands on line 1",
        ),
        ("66 id missing", bytes(&format!("{good}\n{good}\n")), OK, "2 answered"),
        ("66 id a number", short("\"id\": 5"), DATA, "id is the number 5"),
        ("66 id of 1 MB", short(&format!("\"id\": \"{}\"", "i".repeat(1 << 20))), DATA, "at most 1024"),
        ("66 id with a newline", short("\"id\": \"a\\nb\""), OK, "1 answered"),
        ("67 duplicate key", short("\"top_k\": 1, \"top_k\": 2"), DATA, "\"top_k\" stands twice"),
        ("67 unknown field", short("\"topk\": 1"), DATA, "did you mean \"top_k\""),
        (
            "68 min_tokens above max_tokens",
            bytes(r#"{"prompt": "x", "min_tokens": 9, "max_tokens": 5}"#),
            DATA,
            "in:1:17: min_tokens is 9, max_tokens only 5",
        ),
        (
            "69 a token that is not there",
            bytes("{\"prompt\": \"x\"}\n{\"prompt\": [5, 999999]}\n"),
            DATA,
            "in:2:16: a token of the prompt is the number 999999",
        ),
        (
            "69 a bias of a token that is not there",
            bytes(concat!(
                "{\"custom_id\":\"a\",\"url\":\"/v1/completions\",",
                "\"body\":{\"prompt\":\"x\",\"logit_bias\":{\"4000000000\":1}}}\n"
            )),
            DATA,
            "in:1:77: logit_bias names token 4000000000",
        ),
        (
            "66 duplicate id behind the prompt",
            bytes("{\"id\":\"a\",\"prompt\":\"x\"}\n{\"prompt\":\"y\",\"id\":\"a\"}\n"),
            DATA,
            "in:2:15: the id \"a\" stands on line 1",
        ),
        ("68 max_tokens 0", bytes(r#"{"prompt": "x", "max_tokens": 0}"#), OK, "1 answered"),
        ("70 empty prompt", bytes(r#"{"prompt": "", "max_tokens": 1}"#), FAILED_ROWS, "EmptyPrompt"),
        ("70 prompt null", bytes(r#"{"prompt": null}"#), DATA, "prompt is null"),
        ("70 no messages", bytes(r#"{"messages": []}"#), DATA, "messages is empty"),
        ("73 empty stop", short("\"stop\": \"\""), DATA, "stop string is empty"),
        ("73 empty stop in a list", short("\"stop\": [\"a\", \"\"]"), DATA, "stop string is empty"),
        ("73 10k stops", short(&many_stops), DATA, "stop has 10000 elements"),
        (
            "73 stop of 1 MB",
            short(&format!("\"stop\": \"{}\"", "s".repeat(1 << 20))),
            DATA,
            "stop string has 1048576 bytes",
        ),
    ];
    for value in ["-1", "1.5", "1e300", "\"5\"", "9223372036854775808"] {
        cases.push((
            "68 max_tokens",
            format!("{{\"prompt\": \"x\", \"max_tokens\": {value}}}").into_bytes(),
            DATA,
            "in:1:31: max_tokens",
        ));
    }
    for (field, told) in [
        ("\"temperature\": NaN", "not valid JSON"),
        ("\"temperature\": -1", "temperature is -1"),
        ("\"temperature\": 1e9", "temperature is 1000000000"),
        ("\"top_p\": 0", "top_p is 0"),
        ("\"top_p\": 2", "top_p is 2"),
        ("\"seed\": -1", "seed is the number -1"),
        ("\"min_p\": 1.1", "min_p is 1.1"),
        ("\"repetition_penalty\": 0", "repetition_penalty is 0"),
        ("\"n\": 0", "n is the number 0"),
        ("\"n\": 1000000", "n is the number 1000000"),
        ("\"logprobs\": -1", "logprobs is the number -1"),
        ("\"logit_bias\": {\"x\": 1}", "logit_bias names \"x\""),
    ] {
        cases.push(("69 out of range", short(field), DATA, told));
    }
    cases
}

#[test]
fn every_bad_line_is_told_and_nothing_is_written() {
    for (case, input, code, told) in inputs() {
        let place = Place::new();
        let ended = place.batch(input, &[]);
        assert_eq!(ended.code, code, "{case}: {}", ended.stderr);
        assert!(ended.stderr.contains(told), "{case}: {}", ended.stderr);
        if code == DATA {
            assert!(
                ended.stderr.contains("nothing was written") || case.starts_with("63"),
                "{case}: {}",
                ended.stderr
            );
            assert!(!place.path("out").exists(), "{case}: something was written");
        } else {
            place.rows("out");
        }
    }
}

/// A sparse file of 4 GiB without a line end is refused without being kept.
#[test]
fn case_65_a_line_of_4_gib() {
    let place = Place::new();
    std::fs::File::create(place.path("in")).unwrap().set_len(4 << 30).unwrap();
    let args = ["batch", "-i", "in", "-o", "out", "-m", "none", "--input-format", "jsonl"];
    place.run(args).expect(DATA, "in:1:1: the line has more than 67108864 bytes");
}

#[test]
fn case_70_and_71_at_the_edge_of_the_context() {
    let place = Place::new();
    let line = |id: &str, n: usize, more: &str| {
        format!("{{\"id\": \"{id}\", \"prompt\": {:?}{more}}}\n", vec![5; n])
    };
    let input = [
        line("fits", 15, ""),
        line("full", 16, ""),
        line("over", 17, ""),
        line("asks", 10, ", \"max_tokens\": 7"),
        line("huge", 100_000, ""),
        line("odd", 3, ", \"stop_token_ids\": [4000000000]"),
    ];
    let more = ["-c", "16", "--ignore-eos"];
    place
        .batch(input.concat(), &more)
        .expect(DATA, "in:6:55: a stop_token_ids entry is the number 4000000000");
    assert!(!place.path("out").exists(), "something was written");
    let ended = place.batch(input.concat(), &[&more[..], &["--on-bad-line", "record"]].concat());
    ended.expect(FAILED_ROWS, "5 requests failed").expect(FAILED_ROWS, "TooLong");
    for row in place.rows("out") {
        match row["id"].as_str().unwrap() {
            "fits" => {
                assert_eq!(row["tokens"].as_array().unwrap().len(), 1);
                assert_eq!(row["finish_reason"], "length");
            }
            "odd" => assert_eq!(row["error"]["code"], "TokenOutOfRange"),
            _ => assert_eq!(row["error"]["code"], "TooLong", "{row}"),
        }
    }
}

/// Long runs of one thing: quadratic tokenizers hang here.
#[test]
fn case_72_long_runs() {
    let n = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
    for text in ["^", "a", "😀", "e\u{301}\u{302}", " "] {
        let place = Place::new();
        let prompt = serde_json::to_string(&text.repeat(n)).unwrap();
        let ended = place.batch(format!("{{\"id\": \"x\", \"prompt\": {prompt}, \"max_tokens\": 1}}"), &[]);
        ended.expect(FAILED_ROWS, "1 request failed");
        let code = place.rows("out")[0]["error"]["code"].as_str().unwrap().to_owned();
        assert!(code == "TooLong" || code == "TextTooLong", "{text}: {code}");
    }
}

#[test]
fn case_75_input_and_output() {
    let place = Place::new();
    let good = r#"{"prompt": "x", "max_tokens": 1}"#;
    place.put("same", good);
    let model = tiny("llama-tied.Q4_1.gguf");
    let model = model.to_str().unwrap();
    let args = |input: &'static str, output: &'static str| ["batch", "-i", input, "-o", output, "-m", model];
    place.run(args("same", "same")).expect(USAGE, "--input and --output are the same file");
    assert_eq!(std::fs::read_to_string(place.path("same")).unwrap(), good);
    std::fs::hard_link(place.path("same"), place.path("link")).unwrap();
    place.run(args("same", "link")).expect(USAGE, "the same file");

    place.put("full", "precious\n");
    place.run(args("same", "full")).expect(USAGE, "--overwrite");
    assert_eq!(std::fs::read_to_string(place.path("full")).unwrap(), "precious\n");

    // Redirected from and to the same file, and the model itself.
    let mut command = place.command(args("-", "same"));
    command.arg("--overwrite").stdin(std::fs::File::open(place.path("same")).unwrap());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    crate::program::wait(child, "stdin").expect(USAGE, "the same file");
    let mut command = place.command(args("same", "-"));
    command.stdout(std::fs::File::options().append(true).open(place.path("same")).unwrap());
    let child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    crate::program::wait(child, "stdout").expect(USAGE, "the same file");
    assert_eq!(std::fs::read_to_string(place.path("same")).unwrap(), good);
    let copy = place.path("model.gguf");
    std::fs::copy(model, &copy).unwrap();
    let over = ["batch", "-i", "same", "-o", "model.gguf", "-m", "model.gguf", "--overwrite"];
    place.run(over).expect(USAGE, "--output and --model are the same file");
    assert_eq!(std::fs::read(&copy).unwrap(), std::fs::read(model).unwrap());
    std::fs::create_dir(place.path("model")).unwrap();
    for file in std::fs::read_dir(tiny("llama-tied")).unwrap().flatten() {
        std::fs::copy(file.path(), place.path("model").join(file.file_name())).unwrap();
    }
    let config = std::fs::read(place.path("model/config.json")).unwrap();
    let over = ["batch", "-i", "same", "-o", "model/config.json", "-m", "model", "--overwrite"];
    place.run(over).expect(USAGE, "the model's own");
    assert_eq!(std::fs::read(place.path("model/config.json")).unwrap(), config);

    place.run(args("missing", "out")).expect(NO_INPUT, "missing");
    place.run(args(".", "out")).expect(NO_INPUT, "directory");
    let ended = finish(&mut place.command(args("-", "out")), good.as_bytes());
    ended.expect(OK, "1 answered");
    assert_eq!(place.rows("out").len(), 1);
}

/// What can be read only once is gone on with like a file: a line is known by its id and its content.
#[test]
fn case_75_pipes_are_gone_on_with() {
    let place = Place::new();
    let line = |id: &str| format!("{{\"id\": {id:?}, \"prompt\": \"x {id}\", \"max_tokens\": 3}}\n");
    let (first, all) = (line("a") + &line("b"), line("c") + &line("b") + &line("a"));
    let model = tiny("llama-tied.Q4_1.gguf");
    let args = |input: &'static str| ["batch", "-i", input, "-o", "out", "-m", model.to_str().unwrap()];
    let made = Command::new("mkfifo").arg(place.path("pipe")).status().unwrap();
    assert!(made.success());
    let whole = place.batch(&all, &[]);
    whole.expect(OK, "3 answered");
    let whole = crate::resume::sorted(&place, "out");
    for input in ["-", "pipe"] {
        for name in ["out", "out.manifest.json"] {
            std::fs::remove_file(place.path(name)).unwrap();
        }
        let run = |lines: &str| {
            let feed = |path: &std::path::Path| {
                let (path, lines) = (path.to_owned(), lines.to_owned());
                std::thread::spawn(move || std::fs::write(path, lines).unwrap())
            };
            let fed = (input == "pipe").then(|| feed(&place.path("pipe")));
            let ended = finish(&mut place.command(args(input)), lines.as_bytes());
            if let Some(fed) = fed {
                fed.join().unwrap();
            }
            ended
        };
        run(&first).expect(OK, "2 answered");
        run(&all).expect(OK, "going on, 2 done");
        assert_eq!(crate::resume::sorted(&place, "out"), whole, "{input}");
        run(&all.replace("x b", "y b")).expect(CONFIG, "1 were edited (b)");
    }
}

#[test]
fn case_77_outputs_that_cannot_be_written() {
    let place = Place::new();
    place.put("in", r#"{"prompt": "x", "max_tokens": 1}"#);
    let model = tiny("llama-tied.Q4_1.gguf");
    let args = |output: &'static str| ["batch", "-i", "in", "-o", output, "-m", model.to_str().unwrap()];
    place.run(args("no/such/folder/out")).expect(IO, "no/such/folder/out");
    place.run(args(".")).expect(IO, "cannot open");
    place.run(args("/dev/full")).expect(IO, "No space left");
    // A reader that is gone.
    let mut command = place.command(args("-"));
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    crate::program::wait(child, "closed pipe").expect(IO, "Broken pipe");
}

#[test]
fn case_78_command_lines() {
    let place = Place::new();
    place.put("in", "");
    let batch = ["batch", "-i", "in", "-o", "out", "-m", "none"];
    let cases: &[(&[&str], &str)] = &[
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--seed", "1", "--seed", "2"], "cannot be used multiple times"),
        (&["--kv-blocks", "0"], "--kv-blocks"),
        (&["--kv-blocks", "-1"], "-1"),
        (&["--kv-blocks", "1e9"], "whole number"),
        (&["--threads", "0"], "--threads"),
        (&["-b", "0"], "--batch-size"),
        (&["-c", "0"], "--max-model-len"),
        (&["-c", "5x"], "4K (4096)"),
        (&["--temperature", "NaN"], "from 0 to 100"),
        (&["--temperature", "-1"], "-1"),
        (&["--top-p", "0"], "above 0"),
        (&["--seed", "-1"], "-1"),
        (&["--seed", "x"], "--seed"),
        (&["--stop", ""], "empty"),
        (&["--signals", "all"], "off, summary, token"),
        (&["--precision", "f8"], "exact, bf16, int8"),
        (&["--precision", "exact", "--dtype", "f32"], "cannot be used with"),
        (&["--device", "gpu"], "cuda:N"),
        (&["--logit-bias", "x"], "TOKEN=NATS"),
        (&["--logit-bias", "5=1", "--logit-bias", "5=2"], "names token 5 twice"),
        (&["-q", "-v"], "cannot be used with"),
    ];
    for (more, told) in cases {
        let ended = place.run(batch.iter().chain(*more));
        assert_eq!(ended.code, USAGE, "{more:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(told), "{more:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty() && !place.path("out").exists(), "{more:?}");
    }
    for args in [&["nosuchverb"][..], &[], &["batch"], &["policy"], &["policy", "show"]] {
        assert_eq!(place.run(args).code, USAGE, "{args:?}");
    }
    for args in [&["--help"][..], &["--version"], &["batch", "--help"], &["policy", "--help"]] {
        let ended = place.run(args);
        assert!(ended.code == OK && !ended.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn case_79_and_80_paths_and_devices() {
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    place.put("in", r#"{"prompt": "x", "max_tokens": 1}"#);
    for name in [&b"a\xffb.gguf"[..], b"a\nb.gguf", "é ü.gguf".as_bytes()] {
        let path = place.path("").join(std::ffi::OsStr::from_bytes(name));
        std::fs::copy(tiny("llama-tied.Q4_1.gguf"), &path).unwrap();
        let mut command = place.command(["batch", "-i", "in", "-o", "out", "--overwrite", "-m"]);
        finish(command.arg(&path), b"").expect(OK, "1 answered");
    }
    place.run(["run", "-p", "x", "-m", ""]).expect(NO_INPUT, "");
    place.run(["run", "-p", "x", "-m", "no-such.gguf"]).expect(NO_INPUT, "no-such.gguf");
    // Without a driver there is nothing to use; with one, no tenth device.
    let ended = place.run(["run", "-p", "x", "--device", "cuda:9"]);
    assert!(
        [USAGE, UNSUPPORTED].contains(&ended.code) && ended.stderr.contains("--device"),
        "{}",
        ended.stderr
    );
    place.run(["run", "-p", "x", "--dtype", "f16"]).expect(UNSUPPORTED, "f16");
    let args = ["run", "-p", "x", "--device", "cuda", "--kernel-path", "portable"];
    place.run(args).expect(UNSUPPORTED, "--kernel-path portable names kernels of the CPU");
}

/// What belongs to a model and is no file: refused at once, whichever it is, also where it may be left out.
#[test]
fn case_17_what_is_no_file() {
    let place = Place::new();
    let model = tiny("llama-tied");
    for name in [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        for what in ["mkfifo \"$1\"", "ln -s /dev/zero \"$1\"", "ln -s nowhere \"$1\"", "mkdir \"$1\""] {
            let folder = place.path("model");
            std::fs::create_dir(&folder).unwrap();
            for file in std::fs::read_dir(&model).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
            }
            let path = folder.join(name);
            let _ = std::fs::remove_file(&path);
            let made = Command::new("sh").args(["-c", what, "sh"]).arg(&path).status().unwrap();
            assert!(made.success());
            let ended =
                place.run(["run", "-p", "x", "-n", "1", "--threads", "1", "-m", folder.to_str().unwrap()]);
            assert_eq!(ended.code, NO_INPUT, "{name}, {what}: {}", ended.stderr);
            assert!(ended.stderr.contains(name), "{}", ended.stderr);
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
}

/// Weights that are no numbers: every request fails by itself, with what was computed and where.
#[test]
fn cases_15_and_46_weights_that_are_no_numbers() {
    let place = Place::new();
    for file in ["llama-tied.Q4_1.gguf", "llama-tied.F16.gguf", "llama-tied.F32.gguf", "qwen3-wide.Q6_K.gguf"]
    {
        let mut bytes = std::fs::read(tiny(file)).unwrap();
        // All ones are a NaN in every format of floating-point numbers, and so are the scales of blocks.
        let last = bytes.len() - 8192;
        bytes[last..].fill(0xff);
        place.put("spoiled.gguf", bytes);
        place.put("in", "{\"id\": \"a\", \"prompt\": \"x y z\", \"max_tokens\": 2}\n");
        for precision in ["exact", "int8", "bf16"] {
            let args =
                ["batch", "-i", "in", "-o", "out", "--overwrite", "--threads", "1", "-m", "spoiled.gguf"];
            let ended = place.run(args.iter().chain(&["--precision", precision]));
            ended.expect(FAILED_ROWS, "NumericalError");
            assert_eq!(place.rows("out")[0]["error"]["code"], "NumericalError", "{file}, {precision}");
        }
    }
}

/// A system message that no template would put anywhere is not dropped in silence.
#[test]
fn case_60_a_system_message_without_a_template() {
    let place = Place::new();
    let folder = place.path("model");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(tiny("llama-tied")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    std::fs::write(folder.join("tokenizer_config.json"), "{}").unwrap();
    let run = |more: &[&str]| {
        let args = ["run", "-p", "x", "-n", "1", "--threads", "1", "-m", folder.to_str().unwrap()];
        place.run(args.iter().chain(more))
    };
    run(&[]).expect(OK, "--chat-template gives it one");
    run(&["--system", "Be brief."]).expect(USAGE, "give one with --chat-template");
}
