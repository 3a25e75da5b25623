//! The program itself on the fake driver: `batch --device cuda` gives the tokens of `--device cpu`, and a device that breaks
//! costs no answer that was finished.
#![forbid(unsafe_code)]

#[path = "compilers/mod.rs"]
mod compilers;

use entropix_emulator::FakeDriver;
use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny").join(name)
}

/// The program of this build. Cargo puts it beside the folder of the tests when it builds the whole workspace.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let program = test.parent().and_then(Path::parent).unwrap().join("entropix");
    assert!(
        program.exists(),
        "{} is not there; build it first, in the same profile: cargo build --bin entropix",
        program.display()
    );
    program
}

/// Runs `batch` in `folder`, from `in` to `out`.
fn batch(folder: &Path, model: &str, more: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program());
    command.args(["batch", "-i", "in", "-o", "out", "--overwrite", "-m"]).arg(tiny(model)).args(more);
    command.args(["--threads", "1"]).current_dir(folder).env("XDG_CACHE_HOME", folder);
    said(&mut command, environment)
}

/// What a command says in this environment, without what the caller's says of the program and of devices.
fn said(command: &mut Command, environment: &[(&str, &str)]) -> Output {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("ENTROPIX_") || name == "CUDA_VISIBLE_DEVICES" {
            command.env_remove(name);
        }
    }
    command.envs(environment.iter().copied());
    command.output().unwrap()
}

fn fake() -> (&'static str, &'static str) {
    ("LD_LIBRARY_PATH", FakeDriver::folder().to_str().unwrap())
}

/// Names that a library exports and that begin as the driver's do.
fn exported(library: &Path) -> Vec<String> {
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(library).output().unwrap();
    assert!(output.status.success(), "nm: {}", words(&output));
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.split_whitespace().nth(2));
    names.filter(|name| name.starts_with("cu")).map(str::to_owned).collect()
}

/// A library called libcuda.so that has these functions; each says that there is no device.
fn stand_in(folder: &Path, names: &[String]) {
    let source: String = names.iter().map(|name| format!("int {name}() {{ return 100; }}\n")).collect();
    std::fs::write(folder.join("driver.c"), source + "int nothing;\n").unwrap();
    let mut command = Command::new("g++");
    command.args(["-x", "c", "-shared", "-fPIC", "-o", "libcuda.so", "driver.c"]).current_dir(folder);
    let output = command.output().unwrap();
    assert!(output.status.success(), "g++: {}", words(&output));
}

/// A library that is called as the driver is and lacks a function is told as what it is, whichever it lacks; and `auto`
/// computes without it.
#[test]
fn a_driver_without_a_function_is_none() {
    let names = exported(&FakeDriver::folder().join("libcuda.so"));
    assert!(names.len() > 30, "{names:?}");
    let folder = tempfile::tempdir().unwrap();
    let place = ("LD_LIBRARY_PATH", folder.path().to_str().unwrap());
    let doctor = || {
        let mut command = Command::new(program());
        words_of_both(&said(command.arg("doctor"), &[place]))
    };
    stand_in(folder.path(), &names);
    let whole = doctor();
    assert!(whole.contains("sees no device") && !whole.contains("lacks"), "{whole}");
    for (i, name) in names.iter().enumerate() {
        let others = [&names[..i], &names[i + 1..]].concat();
        stand_in(folder.path(), &others);
        let told = doctor();
        assert!(told.contains(&format!("it lacks {name};")), "{name}: {told}");
    }
    stand_in(folder.path(), &[]);
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    let refused = batch(folder.path(), "qwen3", &["--device", "cuda"], &[place]);
    assert_eq!(refused.status.code(), Some(69), "{}", words(&refused));
    let done = batch(folder.path(), "qwen3", &["--device", "auto"], &[place]);
    assert_eq!(done.status.code(), Some(0), "{}", words(&done));
    assert_eq!(answers(folder.path()).len(), 4);
}

fn words_of_both(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &words(output)
}

/// (id, tokens) of every answer, by id.
type Answers = Vec<(String, Vec<u64>)>;

/// The answers in `out`, of which every line is whole.
fn answers(folder: &Path) -> Answers {
    let text = std::fs::read_to_string(folder.join("out")).unwrap_or_default();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn: {text}");
    let mut all: Answers = text
        .lines()
        .map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let tokens = row["tokens"].as_array().unwrap_or_else(|| panic!("{line}"));
            let id = row["id"].as_str().unwrap().to_owned();
            (id, tokens.iter().map(|token| token.as_u64().unwrap()).collect())
        })
        .collect();
    all.sort();
    all
}

const INPUT: &str = "{\"id\":\"a\",\"prompt\":\"the quick brown fox\",\"max_tokens\":24}\n\
                     {\"id\":\"b\",\"prompt\":\"1 2 3\",\"max_tokens\":24}\n\
                     {\"id\":\"c\",\"prompt\":\"what is there to say of a prompt that is rather longer than the others are\",\"max_tokens\":16}\n\
                     {\"id\":\"d\",\"prompt\":\"x\",\"max_tokens\":12}\n";

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Greedy answers of one model on one device.
fn greedy(folder: &Path, model: &str, device: &str, more: &[&str]) -> (Answers, String) {
    let mut flags = vec!["--device", device, "--policy", "greedy", "-b", "3"];
    flags.extend(more);
    let output = batch(folder, model, &flags, &[fake()]);
    assert!(output.status.success(), "{model} on {device}: {}", words(&output));
    (answers(folder), words(&output))
}

/// These models are sure of every token by more than 2 nats, so no rounding changes an answer.
#[test]
fn the_gpu_answers_as_the_cpu_does() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    for model in ["llama-sure", "llama-sure.Q4_0.gguf", "qwen3-sure.Q8_0.gguf"] {
        let (cpu, _) = greedy(folder.path(), model, "cpu", &["--precision", "exact"]);
        let (cuda, said) = greedy(folder.path(), model, "cuda", &[]);
        assert_eq!(cpu.iter().map(|(_, tokens)| tokens.len()).collect::<Vec<_>>(), [24, 24, 16, 12]);
        assert_eq!(cpu, cuda, "{model}");
        assert!(said.contains("cuda:0, Emulated device"), "{said}");
        assert!(said.contains("memory   weights") && said.contains(" cache "), "{said}");
        // Small memory: rows are put back and computed again.
        let (preempted, said) = greedy(folder.path(), model, "cuda", &["--kv-blocks", "6", "-c", "64"]);
        assert_eq!(preempted, cuda, "{model}");
        assert!(said.contains("preemptions"), "{said}");
    }
}

/// Every type of the KV cache, recorded beside the answers: going on with another is refused, going over them takes the same.
#[test]
fn the_cache_has_the_type_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    let model = "llama-sure";
    let (expected, plain) = greedy(folder.path(), model, "cuda", &[]);
    assert!(!plain.contains("KV cache in"), "{plain}");
    for kv in ["f16", "int8"] {
        let flags = ["--kv-cache-dtype", kv, "--signals", "token"];
        let (answers, told) = greedy(folder.path(), model, "cuda", &flags);
        assert_eq!(answers, expected, "{kv}");
        assert!(told.contains(&format!("KV cache in {kv}")), "{told}");
    }
    let path = folder.path().join("out.manifest.json");
    let manifest = std::fs::read_to_string(&path).unwrap();
    assert!(manifest.contains("\"kv_cache\": \"int8\""), "{manifest}");
    let verify = |environment: &[(&str, &str)]| {
        let mut command = Command::new(program());
        command.args(["verify", "out", "--sample", "100%", "-m"]).arg(tiny(model)).current_dir(folder.path());
        command.env("XDG_CACHE_HOME", folder.path());
        let output = said(&mut command, environment);
        (output.status.code(), words(&output) + &String::from_utf8_lossy(&output.stdout))
    };
    let (code, told) = verify(&[fake()]);
    assert!(code == Some(0) && told.contains("4 lines, all the same bytes"), "{told}");
    // On the device that the environment names, where there are several.
    let two = [fake(), ("FAKE_CUDA_DEVICES", "2"), ("FAKE_CUDA_CAPABILITY", "75,90")];
    let (code, told) = verify(&two);
    assert!(
        code == Some(69) && told.contains("cuda:0 (Emulated device) has compute capability 7.5"),
        "{told}"
    );
    let (code, told) = verify(&[&two[..], &[("ENTROPIX_DEVICE", "cuda:1")]].concat());
    assert!(code == Some(0) && told.contains("4 lines, all the same bytes"), "{told}");
    // Computed in another type the signals are others.
    std::fs::write(&path, manifest.replace("\"int8\"", "\"f16\"")).unwrap();
    let (code, told) = verify(&[fake()]);
    assert!(code == Some(65) && told.contains("4 of 4 lines differ"), "{code:?} {told}");
    std::fs::write(&path, manifest.replace("\"int8\"", "\"int9\"")).unwrap();
    let (code, told) = verify(&[fake()]);
    assert!(code == Some(78) && told.contains("the type of the KV cache is \"int9\""), "{code:?} {told}");
    std::fs::write(&path, manifest).unwrap();
    let mut command = Command::new(program());
    command.args(["batch", "-i", "in", "-o", "out", "-m"]).arg(tiny(model)).current_dir(folder.path());
    command.args(["--device", "cuda", "--policy", "greedy", "--signals", "token", "--threads", "1"]);
    let output = said(command.env("XDG_CACHE_HOME", folder.path()), &[fake()]);
    assert!(!output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("the type of the KV cache was int8, is bf16"), "{}", words(&output));
    for (device, precision) in [("cpu", "int8"), ("auto", "exact")] {
        let flags = ["--device", device, "--precision", precision, "--kv-cache-dtype", "f16"];
        let output = batch(folder.path(), model, &flags, &[fake()]);
        assert_eq!(output.status.code(), Some(69), "{}", words(&output));
        assert!(words(&output).contains("--kv-cache-dtype f16 is for CUDA devices"), "{}", words(&output));
    }
}

/// Long prompts by cuBLASLt where that is asked for: the tokens of the CPU, and manifest, headline and results of bench say what
/// computed them. What cannot be had is refused and never replaced.
#[test]
fn fast_jobs_take_cublaslt_and_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let prompt = "what is there to say of a prompt that is rather longer than the others are ".repeat(2);
    let line = |i| format!("{{\"id\":\"{i}\",\"prompt\":\"{i} {prompt}\",\"max_tokens\":6}}\n");
    // Together more tokens than the 512 from which on it is used.
    std::fs::write(folder.path().join("in"), (10..22).map(line).collect::<String>()).unwrap();
    let manifest = || std::fs::read_to_string(folder.path().join("out.manifest.json")).unwrap();
    let run = |model: &str, more: &[&str], environment: &[(&str, &str)]| {
        let flags = [&["--policy", "greedy", "-b", "12"], more].concat();
        let output = batch(folder.path(), model, &flags, &[&[fake()], environment].concat());
        (output.status.code(), words(&output))
    };
    let (fast, failing) = (["--device", "cuda", "--fast"], ("FAKE_CUDA_FAIL", "cublasLtMatmul:1:13"));
    for model in ["llama-sure.Q4_0.gguf", "qwen3-sure.Q8_0.gguf", "llama-sure"] {
        let (code, told) = run(model, &["--device", "cpu", "--precision", "exact"], &[]);
        assert_eq!(code, Some(0), "{told}");
        let cpu = answers(folder.path());
        // Neither looked for nor mentioned where nobody asked for it.
        let (code, told) = run(model, &fast[..2], &[("ENTROPIX_CUBLASLT", "/nowhere"), failing]);
        assert!(code == Some(0) && !told.contains("cublas") && !manifest().contains("\"fast\":"), "{told}");
        assert!(cpu.len() == 12 && answers(folder.path()) == cpu, "{model}");
        let (code, told) = run(model, &fast, &[failing]);
        assert!(code == Some(75) && told.contains("CUBLAS_STATUS_EXECUTION_FAILED (13)"), "{code:?} {told}");
        let (code, told) = run(model, &fast, &[]);
        assert!(code == Some(0) && told.contains("fast by cublaslt-13.0.2"), "{code:?} {told}");
        assert!(manifest().contains("\"fast\": \"cublaslt-13.0.2\""), "{}", manifest());
        assert_eq!(answers(folder.path()), cpu, "{model}");
    }
    let again = |arguments: &[&str]| {
        let mut command = Command::new(program());
        command.args(arguments).args(["-m"]).arg(tiny("llama-sure")).current_dir(folder.path());
        let output = said(command.env("XDG_CACHE_HOME", folder.path()), &[fake()]);
        (output.status.code(), words(&output))
    };
    let resumed =
        ["batch", "-i", "in", "-o", "out", "--policy", "greedy", "--threads", "1", "--device", "cuda"];
    let (code, told) = again(&[&resumed[..], &["--fast"]].concat());
    assert!(code == Some(0) && told.contains("12 done"), "{code:?} {told}");
    let (code, told) = again(&resumed);
    assert!(code != Some(0) && told.contains("--fast was cublaslt-13.0.2, is not set"), "{code:?} {told}");
    let (code, told) = again(&["verify", "out"]);
    assert!(code == Some(78) && told.contains("was made with --fast (cublaslt-13.0.2)"), "{code:?} {told}");

    let libcuda = FakeDriver::folder().join("libcuda.so");
    for (named, all) in [
        (
            "off",
            &["$ENTROPIX_CUBLASLT is off; unset $ENTROPIX_CUBLASLT, or begin an output without --fast"][..],
        ),
        (
            "/nowhere/libcublasLt.so.13",
            &["$ENTROPIX_CUBLASLT names /nowhere/", "cannot open", "nvidia-cublas"],
        ),
        (libcuda.to_str().unwrap(), &["is no cuBLASLt: it has no cublasLtGetVersion"]),
    ] {
        let (code, told) = run("llama-sure", &fast, &[("ENTROPIX_CUBLASLT", named)]);
        assert!(code == Some(69) && all.iter().all(|part| told.contains(part)), "{code:?} {told}");
    }
    for flags in [["--device", "cpu"], ["--precision", "exact"]] {
        let (code, told) = run("llama-sure", &[&flags[..], &["--fast"]].concat(), &[]);
        assert!(code == Some(69) && told.contains("--fast is for CUDA devices"), "{code:?} {told}");
    }
    let mut command = Command::new(program());
    command.args(["bench", "-m", "random:tiny", "-p", "600", "-n", "0", "-r", "1", "-o", "json"]).args(fast);
    let output = said(&mut command, &[fake()]);
    assert!(output.status.success(), "{}", words(&output));
    let results: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results[0]["fast"], "cublaslt-13.0.2");
}

/// What the devices' roundings, bf16 against f32, may move the difference of two log-probabilities by, in nats.
const TIE: f64 = 0.25;

/// Models in which everything before a token has a say in it: equal as far as no tie was met.
#[test]
fn the_gpu_answers_as_the_cpu_does_up_to_a_tie() {
    let folder = tempfile::tempdir().unwrap();
    let prompts = [
        "the quick",
        "1 2 3",
        "x",
        "what is there to say",
        "of",
        "a prompt",
        "(a + b)",
        "Q: why? A:",
        "end",
        "...",
        "42",
        "and so on",
    ];
    let line = |(id, prompt)| {
        format!("{{\"id\":\"{id:02}\",\"prompt\":\"{prompt}\",\"max_tokens\":8,\"logprobs\":2}}\n")
    };
    std::fs::write(folder.path().join("in"), prompts.iter().enumerate().map(line).collect::<String>())
        .unwrap();
    for model in
        ["llama-tied", "qwen2.Q8_0.gguf", "qwen3.BF16.gguf", "mistral.Q8_0.gguf", "llama-wide.Q4_K.gguf"]
    {
        let (cpu, _) = greedy(folder.path(), model, "cpu", &["--precision", "exact"]);
        let clear = tokens_before_a_tie(folder.path());
        let (cuda, _) = greedy(folder.path(), model, "cuda", &[]);
        let mut n_compared = 0;
        for ((id, ours), (_, theirs)) in cpu.iter().zip(&cuda) {
            let n_clear = clear[id];
            assert_eq!(ours[..n_clear], theirs[..n_clear.min(theirs.len())], "{model}, request {id}");
            n_compared += n_clear;
        }
        assert!(n_compared >= 20, "{model}: {n_compared} tokens tell little");
    }
}

/// By id, how many tokens of an answer in `out` come before the first with a near runner-up.
fn tokens_before_a_tie(folder: &Path) -> HashMap<String, usize> {
    let text = std::fs::read_to_string(folder.join("out")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    rows.map(|row| {
        let is_clear = |top: &&serde_json::Value| {
            top[0]["logprob"].as_f64().unwrap() - top[1]["logprob"].as_f64().unwrap() > TIE
        };
        let n_clear = row["top_logprobs"].as_array().unwrap().iter().take_while(is_clear).count();
        (row["id"].as_str().unwrap().to_owned(), n_clear)
    })
    .collect()
}

#[test]
fn samplers_draw_the_same_on_both() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    let run = |device: &str, more: &[&str]| {
        let mut flags = vec!["--device", device, "--policy", "attic", "--seed", "5"];
        flags.extend(more);
        let output = batch(folder.path(), "llama-tied.F32.gguf", &flags, &[fake()]);
        assert!(output.status.success(), "{}", words(&output));
        answers(folder.path())
    };
    let (cpu, cuda) = (run("cpu", &["--precision", "exact"]), run("cuda", &[]));
    // A coin near a border falls otherwise after a rounding; then everything after it is another answer.
    let same: usize =
        cpu.iter().zip(&cuda).map(|(a, b)| a.1.iter().zip(&b.1).take_while(|(a, b)| a == b).count()).sum();
    let all: usize = cpu.iter().map(|(_, tokens)| tokens.len()).sum();
    assert!(same * 2 > all, "{same} of {all} tokens before the first difference: {cpu:?} {cuda:?}");
    assert_eq!(cuda, run("cuda", &["-b", "1"]), "the same in any batch");
}

#[test]
fn auto_says_what_it_takes_and_why() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    let run = |environment: &[(&str, &str)]| {
        let output = batch(folder.path(), "qwen3", &["--device", "auto", "--policy", "greedy"], environment);
        assert!(output.status.success(), "{}", words(&output));
        words(&output)
    };
    let said = run(&[fake()]);
    assert!(said.contains("auto takes cuda:0 (Emulated device)"), "{said}");
    let said = run(&[fake(), ("FAKE_CUDA_VERSION", "11080")]);
    assert!(said.contains("auto takes the cpu: the CUDA driver is of CUDA 11.8"), "{said}");
    let said = run(&[fake(), ("FAKE_CUDA_DEVICES", "0")]);
    assert!(said.contains("auto takes the cpu: the CUDA driver sees no device\n"), "{said}");
    // A device is there, and only when a model is opened does it turn out that no kernels run on it.
    let unfit = [fake(), ("FAKE_CUDA_FATBINS", "0"), ("ENTROPIX_NVRTC", "off")];
    let said = run(&unfit);
    assert!(said.contains("auto takes the cpu: cuda:0 (Emulated device): the kernels of"), "{said}");
    for flags in [["--kv-cache-dtype", "f16"].as_slice(), &["--fast"]] {
        let output = batch(folder.path(), "qwen3", &[&["--device", "auto"], flags].concat(), &unfit);
        assert_eq!(output.status.code(), Some(69), "a wish that the cpu cannot meet: {}", words(&output));
    }
    // The same numbers cut into heads that no kernel knows.
    let model = folder.path().join("other-heads");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(tiny("llama-sure")).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let config = config.replace("attention_heads\": 6", "attention_heads\": 12");
    let config = config.replace("value_heads\": 2", "value_heads\": 4");
    std::fs::write(model.join("config.json"), config).unwrap();
    let output = batch(folder.path(), model.to_str().unwrap(), &["--device", "auto"], &[fake()]);
    assert!(output.status.success(), "{}", words(&output));
    let why = "auto takes the cpu: heads have 8 components; the CUDA kernels know [16, ";
    assert!(words(&output).contains(why), "{}", words(&output));
    // Out of memory is told: the cpu would take a hundred times as long.
    let small = [fake(), ("FAKE_CUDA_MEMORY", "1000000")];
    let output = batch(folder.path(), "qwen3", &["--device", "auto"], &small);
    assert!(
        output.status.code() == Some(75) && words(&output).contains("MiB are lacking"),
        "{}",
        words(&output)
    );
}

#[test]
fn doctor_tells_of_every_device() {
    let doctor = |environment: &[(&str, &str)]| {
        let output = said(Command::new(program()).arg("doctor"), environment);
        assert!(output.status.success(), "{}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let told = doctor(&[fake(), ("FAKE_CUDA_DEVICES", "2")]);
    for ordinal in 0..2 {
        let line = format!("cuda:{ordinal} (Emulated device), capability 9.0, ");
        assert!(told.contains(&line), "{told}");
    }
    for part in ["driver of CUDA 13.0\n", "kernels of this build\n", "--fast by cuBLASLt 13.0.2", "ready"] {
        assert!(told.contains(part), "{part:?} is not in: {told}");
    }
    let told = doctor(&[fake(), ("ENTROPIX_NVRTC", "off"), ("ENTROPIX_CUBLASLT", "off")]);
    assert!(told.contains("no --fast: ") && told.contains("$ENTROPIX_CUBLASLT is off"), "{told}");
    // Each by itself: an old card before it hides no device, and one without kernels is told of all the same.
    let old = doctor(&[fake(), ("FAKE_CUDA_DEVICES", "2"), ("FAKE_CUDA_CAPABILITY", "75,90")]);
    for part in [
        "cuda     cuda:0 (Emulated device), capability 7.5, ",
        "cannot be used: cuda:0 (Emulated device) has compute capability 7.5; at least 8.0 is needed",
        "         cuda:1 (Emulated device), capability 9.0, ",
        "         kernels of this build",
    ] {
        assert!(old.contains(part), "{part:?} is not in: {old}");
    }
    let told = doctor(&[fake(), ("FAKE_CUDA_VERSION", "12080"), ("ENTROPIX_NVRTC", "off")]);
    for part in
        ["capability 9.0, ", "driver of CUDA 12.8\n", "cannot be used: ", "$ENTROPIX_NVRTC is off", "ready"]
    {
        assert!(told.contains(part), "{part:?} is not in: {told}");
    }
    assert!(!told.contains("--fast"), "{told}");
    // What the driver refuses is found out by trying.
    let refusing =
        [fake(), ("FAKE_CUDA_FATBINS", "0"), ("ENTROPIX_NVRTC", "off"), ("ENTROPIX_DEVICE", "cuda")];
    let told = doctor(&refusing[..3]);
    assert!(told.contains("cannot be used: cuda:0 (Emulated device): the kernels of "), "{told}");
    assert!(told.contains("$ENTROPIX_NVRTC is off; unset") && !told.contains("of this build\n"), "{told}");
    assert!(doctor(&refusing).contains("missing  ENTROPIX_DEVICE is \"cuda\": cuda:0"), "{told}");
    let places = format!("{}:{}", fake().1, compilers::nvrtc().parent().unwrap().display());
    let told = doctor(&[("LD_LIBRARY_PATH", places.as_str()), ("FAKE_CUDA_FATBINS", "0")]);
    assert!(
        told.contains("kernels compiled by NVRTC 13.0 (libnvrtc.so.13) when a model is opened\n"),
        "{told}"
    );
    for (device, why) in
        [("cuda:2", "there is one device, cuda:0"), ("gpu", "wants auto, cpu, cuda or cuda:N")]
    {
        let told = doctor(&[fake(), ("ENTROPIX_DEVICE", device)]);
        assert!(
            told.contains(&format!("missing  ENTROPIX_DEVICE is {device:?}")) && told.contains(why),
            "{told}"
        );
    }
    let told = doctor(&[fake(), ("FAKE_CUDA_DEVICES", "0"), ("ENTROPIX_DEVICE", "auto")]);
    assert!(told.contains("sees no device") && told.contains("ready"), "{told}");
}

/// Without a driver that is told with its remedy, and `auto` computes on the CPU.
#[test]
fn without_a_driver_the_cpu_is_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    // What is no library hides one that the system has.
    let hiding = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1", "libnvcuda.so", "libnvcuda.so.1"] {
        std::fs::write(hiding.path().join(name), "").unwrap();
    }
    let none = [("LD_LIBRARY_PATH", hiding.path().to_str().unwrap())];
    let remedy = "no CUDA driver: libcuda.so was not found or is none; install NVIDIA's driver";
    let output = said(Command::new(program()).arg("doctor"), &none);
    let told = words_of_both(&output);
    assert!(output.status.success() && told.contains(&format!("cuda     {remedy}")), "{told}");
    assert!(told.contains("verdict  ready"), "{told}");
    let run = |device: &str| {
        let output = batch(folder.path(), "qwen3", &["--device", device, "--policy", "greedy"], &none);
        (output.status.code(), words(&output))
    };
    let (code, told) = run("cuda");
    assert!(code == Some(69) && told.contains(&format!("{remedy}, or use --device cpu")), "{code:?} {told}");
    assert!(!folder.path().join("out").exists(), "something was written");
    let (code, told) = run("auto");
    assert!(code == Some(0) && told.contains(&format!("auto takes the cpu: {remedy}\n")), "{code:?} {told}");
    assert_eq!(answers(folder.path()).len(), 4);
}

/// What runs for seconds to compile kernels says so.
const COMPILING: &str = "compiling the CUDA kernels for sm_90a with NVRTC 13.0";

/// Greedy answers of a model whose every matrix has kernels of bf16, and what was said.
fn compiled(folder: &Path, device: &str, environment: &[(&str, &str)]) -> (Option<i32>, Answers, String) {
    let flags = ["--device", device, "--policy", "greedy"];
    let output = batch(folder, "llama-sure", &flags, &[&[fake()], environment].concat());
    let answers = if output.status.success() { answers(folder) } else { Vec::new() };
    (output.status.code(), answers, words(&output))
}

/// The kernels that a cache keeps: by name, which file it is.
fn kept(folder: &Path) -> BTreeMap<String, u64> {
    let entries = std::fs::read_dir(folder.join("entropix/kernels")).into_iter().flatten();
    let entries = entries.map(|entry| entry.unwrap());
    entries.map(|e| (e.file_name().into_string().unwrap(), e.metadata().unwrap().ino())).collect()
}

/// A driver that does not take what nvcc made takes what NVRTC makes: once, and then from the cache.
#[test]
fn kernels_that_do_not_run_are_compiled_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    let run = |environment: &[(&str, &str)]| compiled(folder.path(), "cuda", environment);
    let manifest = || std::fs::read_to_string(folder.path().join("out.manifest.json")).unwrap();
    let (_, expected, said) = run(&[]);
    assert!(expected.len() == 4 && !said.contains("compiling") && kept(folder.path()).is_empty(), "{said}");
    assert!(manifest().contains("\"sm_90\""), "{}", manifest());

    // It is found where the system looks for libraries.
    let nvrtc = compilers::nvrtc();
    let places = format!("{}:{}", fake().1, nvrtc.parent().unwrap().display());
    let refusing = [("LD_LIBRARY_PATH", places.as_str()), ("FAKE_CUDA_FATBINS", "0")];
    let (code, answers, said) = run(&refusing);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!((answers, said.matches(COMPILING).count()), (expected.clone(), 1), "{said}");
    assert!(manifest().contains("\"sm_90-nvrtc-13.0\""), "{}", manifest());
    let first = kept(folder.path());
    let stems: Vec<&str> = first.keys().map(|name| name.split('.').next().unwrap()).collect();
    let needed =
        ["attend_bf16_16", "attend_merge", "attention_signals", "candidates", "copy_blocks", "draw", "embed"];
    let further = ["head_bf16", "matmul_bf16", "rms_norm", "rope_store", "signals"];
    assert_eq!(stems, [&needed[..], &further].concat(), "and no others");

    let (_, answers, said) = run(&refusing);
    assert_eq!((answers, kept(folder.path())), (expected.clone(), first.clone()), "{said}");
    assert!(!said.contains("compiling"), "{said}");

    // Whatever the driver has against them.
    for code in ["cuModuleLoadData:1:200", "cuModuleLoadData:2:222", "cuModuleLoadData:1:221"] {
        let (_, answers, said) = run(&[refusing[0], ("FAKE_CUDA_FAIL", code)]);
        assert!(answers == expected && manifest().contains("nvrtc"), "{code}: {said}");
    }

    // A damaged entry is made anew, the others stay.
    let name = first.keys().find(|name| name.starts_with("copy_blocks.")).unwrap();
    let path = folder.path().join("entropix/kernels").join(name);
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let (_, answers, said) = run(&refusing);
    assert!(answers == expected && said.contains(COMPILING), "{said}");
    assert_eq!(std::fs::read(&path).unwrap(), whole);
    let again = kept(folder.path());
    assert!(
        first.iter().all(|(entry, file)| (again[entry] == *file) == (entry != name)),
        "{first:?} {again:?}"
    );

    // Whoever names it gets its kernels even where those of the build would run.
    let named = [("ENTROPIX_NVRTC", nvrtc.to_str().unwrap())];
    let (_, answers, said) = run(&named);
    assert!(answers == expected && !said.contains("compiling"), "{said}");
    assert!(manifest().contains("\"sm_90-nvrtc-13.0\""), "{}", manifest());
    let (_, _, said) = compiled(folder.path(), "auto", &named);
    assert!(said.contains("auto takes cuda:0"), "{said}");

    // A cache that cannot be written is none.
    let file = folder.path().join("in");
    let (code, answers, said) = run(&[named[0], ("XDG_CACHE_HOME", file.to_str().unwrap())]);
    assert_eq!(code, Some(0), "{said}");
    assert!(answers == expected && said.contains(COMPILING), "{said}");
}

#[test]
fn without_kernels_it_says_what_to_install() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    let refused = |environment: &[(&str, &str)], all: &[&str]| {
        let (code, _, said) = compiled(folder.path(), "cuda", environment);
        assert!(code == Some(69) && !folder.path().join("out").exists(), "{code:?}: {said}");
        for part in all {
            assert!(said.contains(part), "{part:?} is not in: {said}");
        }
    };
    refused(
        &[("FAKE_CUDA_FATBINS", "0"), ("ENTROPIX_NVRTC", "off")],
        &[
            "cuda:0 (Emulated device): the kernels of attend_bf16_16.cu do not run there (CUDA_ERROR_NO_BINARY_FOR_GPU (209))",
            "$ENTROPIX_NVRTC is off",
            "unset $ENTROPIX_NVRTC",
            "its own nvcc",
        ],
    );
    let nowhere = [("ENTROPIX_NVRTC", "/nowhere/libnvrtc.so.13")];
    refused(&nowhere, &["$ENTROPIX_NVRTC names /nowhere/libnvrtc.so.13: ", "cannot open", "--device cpu"]);
    let (code, _, said) = compiled(folder.path(), "auto", &nowhere);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("auto takes the cpu") && said.contains("/nowhere/libnvrtc.so.13"), "{said}");
    std::fs::remove_file(folder.path().join("out")).unwrap();

    let nvrtc = compilers::nvrtc();
    let named = ("ENTROPIX_NVRTC", nvrtc.to_str().unwrap());
    // One whose machine code the driver would not take, and one that knows no such device.
    refused(&[named, ("FAKE_CUDA_VERSION", "12040")], &["is newer than the driver, which is of CUDA 12.4"]);
    refused(
        &[named, ("FAKE_CUDA_CAPABILITY", "99")],
        &["NVRTC 13.0", "attend_bf16_16.cu for sm_99", "invalid value for --gpu-architecture"],
    );
    assert_eq!(kept(folder.path()), BTreeMap::new());
    // A driver that does not take NVRTC's either.
    refused(
        &[named, ("FAKE_CUDA_FAIL", "cuModuleLoadData:1:200")],
        &["attend_bf16_16.cu do not run there", "NVRTC 13.0", "made them: update the driver"],
    );
}

/// Case 88 of the bad-input catalogue: devices that are there and may not be seen.
#[test]
fn devices_can_be_hidden() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    let run = |device: &str, shown: &str| {
        let environment = [fake(), ("FAKE_CUDA_DEVICES", "2"), ("CUDA_VISIBLE_DEVICES", shown)];
        let output = batch(folder.path(), "qwen3", &["--device", device, "--policy", "greedy"], &environment);
        (output.status.code(), words(&output))
    };
    for hidden in ["", "-1", "7", "none"] {
        let (code, said) = run("cuda", hidden);
        assert!(code == Some(69) && said.contains(&format!("CUDA_VISIBLE_DEVICES is {hidden:?}")), "{said}");
        assert!(!folder.path().join("out").exists(), "{hidden:?}: something was written");
    }
    let (code, said) = run("auto", "");
    assert!(code == Some(0) && said.contains("auto takes the cpu: the CUDA driver sees no device"), "{said}");
    let (code, said) = run("cuda:1", "1");
    assert!(code == Some(64) && said.contains("one device, cuda:0; CUDA_VISIBLE_DEVICES is \"1\""), "{said}");
    let (code, said) = run("cuda:1", "0,1");
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_broken_device_ends_the_job_and_keeps_what_was_finished() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    let run = |environment: &[(&str, &str)]| {
        batch(folder.path(), "qwen2", &["--device", "cuda", "--policy", "greedy", "-b", "1"], environment)
    };
    assert!(run(&[fake()]).status.success());
    let whole = answers(folder.path());
    let ended = run(&[fake(), ("FAKE_CUDA_FAIL", "cuGraphLaunch:30:719")]);
    assert_eq!(ended.status.code(), Some(75), "{}", words(&ended));
    assert!(words(&ended).contains("CUDA_ERROR_LAUNCH_FAILED (719)"), "{}", words(&ended));
    let kept = answers(folder.path());
    assert!(!kept.is_empty() && kept.len() < whole.len(), "{kept:?}");
    assert!(kept.iter().all(|row| whole.contains(row)), "{kept:?}");
    let ended = run(&[fake(), ("FAKE_CUDA_MEMORY", "1000000")]);
    assert_eq!(ended.status.code(), Some(75), "{}", words(&ended));
    assert!(words(&ended).contains("--kv-blocks"), "{}", words(&ended));
}

/// A device that stops answering in the middle of a job is given up: what was finished is kept, and the same command goes on.
#[test]
fn a_hanging_device_ends_the_job_and_keeps_what_was_finished() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    let run = |environment: &[(&str, &str)]| {
        let flags = ["--device", "cuda", "--policy", "greedy", "-b", "1"];
        batch(folder.path(), "qwen2", &flags, environment)
    };
    assert!(run(&[fake()]).status.success());
    let whole = answers(folder.path());
    let hanging = [fake(), ("FAKE_CUDA_HANG", "40"), ("ENTROPIX_CUDA_TIMEOUT", "1")];
    let start = std::time::Instant::now();
    let ended = run(&hanging);
    let told = words(&ended);
    assert_eq!(ended.status.code(), Some(75), "{told}");
    assert!(start.elapsed().as_secs() < 60, "that is not its patience");
    assert!(told.contains("did not finish a step within 1 s; rows that were finished are kept"), "{told}");
    let kept = answers(folder.path());
    assert!(!kept.is_empty() && kept.len() < whole.len(), "{kept:?}");
    assert!(kept.iter().all(|row| whole.contains(row)), "{kept:?}");
    let mut command = Command::new(program());
    command
        .args(["batch", "-i", "in", "-o", "out", "--device", "cuda", "--policy", "greedy", "-b", "1", "-m"]);
    command.arg(tiny("qwen2")).args(["--threads", "1"]).current_dir(folder.path());
    let output = said(command.env("XDG_CACHE_HOME", folder.path()), &[fake()]);
    assert!(output.status.success(), "{}", words(&output));
    assert_eq!(answers(folder.path()), whole);
    let refused = run(&[fake(), ("ENTROPIX_CUDA_TIMEOUT", "soon")]);
    assert_eq!(refused.status.code(), Some(64), "{}", words(&refused));
}

/// The number before a word of a message.
fn number_before(text: &str, word: &str) -> usize {
    let before = text.split(word).next().filter(|before| before.len() < text.len());
    let before = before.unwrap_or_else(|| panic!("{word:?} is not in: {text}"));
    before.split_whitespace().last().unwrap().parse().unwrap_or_else(|_| panic!("no number: {text}"))
}

/// What a device without enough memory advises fits, and no more than that does; flags are named that the verb has.
#[test]
fn advice_on_memory_is_true() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("in"), INPUT).unwrap();
    // The driver's own share and a little.
    let memory = ("FAKE_CUDA_MEMORY", "148897792");
    let run = |flags: &[&str]| {
        let all = [&["--device", "cuda", "--policy", "greedy", "-c", "64"], flags].concat();
        let output = batch(folder.path(), "llama-sure", &all, &[fake(), memory]);
        (output.status.code(), words(&output))
    };
    let refused = |flags: &[&str]| {
        let (code, told) = run(flags);
        assert!(code == Some(75) && told.contains(" MiB are lacking: "), "{code:?} {told}");
        assert!(told.contains("weights  ") && told.contains("activations  "), "no table: {told}");
        assert!(
            told.contains("blocks: -c or --kv-blocks; rows: -b; int8: --kv-cache-dtype int8"),
            "no flags: {told}"
        );
        told
    };
    let blocks = 2600;
    let of = |blocks: usize| blocks.to_string();
    let told = refused(&["-b", "4", "--kv-blocks", &of(blocks)]);
    let fitting = number_before(&told, " blocks (");
    assert!(
        told.contains(&format!("with {fitting} blocks ({} positions) instead of {blocks}", fitting * 16))
    );
    assert_eq!(run(&["-b", "4", "--kv-blocks", &of(fitting)]).0, Some(0));
    refused(&["-b", "4", "--kv-blocks", &of(fitting + 300)]);
    assert!(told.contains("or with the cache in int8"), "{told}");
    assert_eq!(run(&["-b", "4", "--kv-blocks", &of(blocks), "--kv-cache-dtype", "int8"]).0, Some(0));
    let int8 = ["-b", "4", "--kv-blocks", "9000", "--kv-cache-dtype", "int8"];
    assert!(!refused(&int8).contains("cache in int8"), "that it is already");
    // Many rows keep many rows of logits.
    let told = refused(&["-b", "20000", "--kv-blocks", "100"]);
    let fitting = number_before(&told, " rows instead of 20000");
    assert_eq!(run(&["-b", &of(fitting), "--kv-blocks", "100"]).0, Some(0), "{told}");
    refused(&["-b", &of(fitting + fitting / 4), "--kv-blocks", "100"]);
    let told = refused(&["-b", "20000", "--kv-blocks", "100000"]);
    assert!(told.contains("it fits with 1 row, the cache in int8 and "), "{told}");
    let fitting = number_before(&told, " blocks (");
    let together = of(fitting);
    let together = ["-b", "1", "--kv-cache-dtype", "int8", "--kv-blocks", &together];
    assert_eq!(run(&together).0, Some(0), "{told}");

    let refused = |arguments: &[&str], memory: &str, flags: &str| {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(folder.path()).env("XDG_CACHE_HOME", folder.path());
        let output = said(&mut command, &[fake(), ("FAKE_CUDA_MEMORY", memory)]);
        let told = words(&output);
        assert_eq!(output.status.code(), Some(75), "{told}");
        assert!(told.contains("weights  ") && told.contains(" MiB are lacking: "), "no table: {told}");
        assert!(told.contains(&format!("flags that lower it: {flags}\n")), "{flags:?} is not in: {told}");
        told
    };
    let kernels = ["bench", "kernels", "-m", "random:tiny"];
    for memory in ["1000000", "140000000"] {
        let told = refused(&kernels, memory, "blocks: -b, -d or -p; rows: -b; int8: --kv-cache-dtype int8");
        assert!(!told.contains("--kv-blocks") && !told.contains("--device cpu"), "{told}");
    }
    let told = refused(
        &["bench", "--device", "cuda", "-m", "random:tiny"],
        "1000000",
        "blocks: -b, -d, -p or -n; rows: -b; int8: --kv-cache-dtype int8",
    );
    assert!(told.contains("neither fewer blocks nor fewer rows would do"), "{told}");
    let model = tiny("llama-sure");
    let model = model.to_str().unwrap();
    refused(
        &["run", "--prompt", "x", "--device", "cuda", "-m", model],
        "1000000",
        "blocks: -c or --kv-blocks; int8: --kv-cache-dtype int8",
    );
    refused(&["verify", "out"], "1000000", "blocks: -b; rows: -b");
}

/// What `bench kernels` writes has the names that the judge of the gates reads: as if it were of a model that gates are for.
fn gates_understand(mut steps: serde_json::Value) {
    let folder = tempfile::tempdir().unwrap();
    for step in steps.as_array_mut().unwrap() {
        step["model"] = "random:llama-3.2-1b".into();
        match (step["rows"].as_u64(), step["tokens"].as_u64()) {
            (Some(rows), Some(1)) => {
                (step["rows"], step["context"]) = (if rows == 1 { 1 } else { 256 }.into(), 512.into());
            }
            _ => step["tokens"] = 2048.into(),
        }
    }
    let path = folder.path().join("kernels.json");
    std::fs::write(&path, steps.to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/gates.py");
    let output = Command::new("python3")
        .arg(script)
        .arg("--ours")
        .arg(&path)
        .arg("-o")
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", words(&output));
    let table = std::fs::read_to_string(folder.path().join("gates.json")).unwrap();
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let found = |gate: usize| -> Vec<&str> {
        let found = table["gates"][gate]["found"].as_array().unwrap();
        found.iter().map(|found| found[0].as_str().unwrap()).collect()
    };
    let regimes = ["flat", "typical", "peaked"];
    let costs = ["1 row", "256 rows"].map(|rows| regimes.map(|name| format!("llama-3.2-1b, {rows}, {name}")));
    assert_eq!(found(0), costs.as_flattened());
    assert_eq!(found(1), ["llama-3.2-1b, 1 row", "llama-3.2-1b, 256 rows"]);
    let cells = table["cells"].as_array().unwrap();
    let measured: Vec<_> =
        cells.iter().filter(|cell| cell["us"].is_number()).map(|cell| &cell["rows"]).collect();
    assert_eq!(measured, [&serde_json::json!(1), &256.into(), &"prompt".into()]);
}

/// Steps are taken apart, and measured whole, on weights that lie in no file.
#[test]
fn steps_of_random_models_are_measured() {
    let bench = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(program());
        command.args(["bench"]).args(arguments);
        said(&mut command, environment)
    };
    let run = |arguments: &[&str]| bench(arguments, &[fake()]);
    let hidden = bench(&["kernels", "-m", "random:tiny"], &[fake(), ("CUDA_VISIBLE_DEVICES", "")]);
    assert_eq!(hidden.status.code(), Some(69));
    assert!(words(&hidden).contains("bench kernels measures CUDA devices: "), "{}", words(&hidden));
    let output =
        run(&["kernels", "-m", "random:tiny:Q4_0", "-b", "1,3", "-d", "100", "-p", "16", "-o", "json"]);
    assert!(output.status.success(), "{}", words(&output));
    let steps: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let shapes: Vec<[u64; 3]> = steps
        .as_array()
        .unwrap()
        .iter()
        .map(|step| ["rows", "tokens", "context"].map(|name| step[name].as_u64().unwrap()))
        .collect();
    assert_eq!(shapes, [[1, 1, 256], [3, 1, 256], [1, 16, 16]]);
    gates_understand(steps.clone());
    for step in steps.as_array().unwrap() {
        let kernels = step["kernels"].as_array().unwrap();
        let has =
            |name: &str| kernels.iter().any(|kernel| kernel["kernel"].as_str().unwrap().starts_with(name));
        assert!(has("matmul_q4_0") && has("attend") && has("head_q4_0") && has("signals"), "{step}");
        let products = |part: &str| kernels.iter().any(|kernel| kernel["part"] == part);
        assert!(["qkv", "o", "gate_up", "down", ""].into_iter().all(products), "{step}");
        assert!(step["us"][0].as_f64().unwrap() > 0.0);
    }
    let cpu = bench(&["kernels", "-m", "random:tiny"], &[fake(), ("ENTROPIX_DEVICE", "cpu")]);
    assert!(
        words(&cpu).contains("ENTROPIX_DEVICE is \"cpu\": bench kernels measures CUDA"),
        "{}",
        words(&cpu)
    );
    let other = bench(&["kernels", "-m", "random:tiny"], &[fake(), ("ENTROPIX_DEVICE", "cuda:7")]);
    assert!(other.status.code() == Some(64) && words(&other).contains("cuda:7"), "{}", words(&other));
    let output = run(&[
        "--device",
        "cuda",
        "-m",
        "random:tiny",
        "-p",
        "8",
        "-n",
        "2",
        "-b",
        "2",
        "-r",
        "1",
        "-o",
        "json",
    ]);
    assert!(output.status.success(), "{}", words(&output));
    let results: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((results[0]["test"].as_str(), results[1]["test"].as_str()), (Some("pp8"), Some("tg2")));
    assert_eq!(results[0]["model_filename"], "random:tiny");
    assert!(words(&output).contains("memory   "), "{}", words(&output));
    assert!(results[0]["signals_share"].is_null(), "a device does not tell what its time goes into");
    let output = run(&["kernels", "--device", "cpu", "-m", "random:tiny"]);
    assert!(
        output.status.code() == Some(64) && words(&output).contains("measures CUDA kernels"),
        "{}",
        words(&output)
    );
}
