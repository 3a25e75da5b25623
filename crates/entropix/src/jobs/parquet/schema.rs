//! The columns of the Parquet files, in the notation of the format's own documents. They are the fields of the JSON
//! lines, with the same names; what is an object of many forms there is a text of JSON here.

use super::Shape;
use entropix_engine::DecisionKind;

/// The schema of a file of lines of this shape.
pub(super) fn of(shape: Shape) -> String {
    match shape {
        Shape::Answers => answers(),
        Shape::Scores => scores(),
        Shape::Trace => trace(),
    }
}

const TEXT: &str = "binary element (STRING);";
const FLOAT: &str = "float element;";
const ID: &str = "int32 element;";
const COUNT: &str = "int64 element;";

const ERROR: &str =
    "optional group error { optional binary code (STRING); optional binary message (STRING); }";
const USAGE: &str = "optional group usage { optional int64 prompt_tokens; optional int64 completion_tokens; \
                     optional int64 discarded_tokens; }";

/// A list of `element`s, which any of them may be null.
fn list(name: &str, element: &str) -> String {
    format!("optional group {name} (LIST) {{ repeated group list {{ optional {element} }} }}")
}

fn answers() -> String {
    let answer = answer();
    let choices = list("choices", &format!("group element {{ {answer} }}"));
    format!(
        "message answer {{ optional binary id (STRING); optional binary custom_id (STRING);
         optional binary request (STRING); {answer} {choices} optional binary response (JSON); {ERROR} }}"
    )
}

/// The fields of one answer.
fn answer() -> String {
    let entries = list("element", "group element { optional int32 token; optional float logprob; }");
    let entries = entries.strip_prefix("optional ").expect("as lists begin");
    format!(
        "optional binary text (STRING); {tokens} optional binary finish_reason (STRING);
         optional binary reason (STRING); {USAGE} {signals} {logprob} {top_logprobs}",
        tokens = list("tokens", ID),
        signals = signals(),
        logprob = list("logprob", FLOAT),
        top_logprobs = list("top_logprobs", entries),
    )
}

/// The signals of an answer, those of a summary and those of every token.
fn signals() -> String {
    let counts: String =
        DecisionKind::ALL.iter().map(|kind| format!("optional int64 n_{}; ", kind.name())).collect();
    let tokens = [
        list("entropy", FLOAT),
        list("varentropy", FLOAT),
        list("logprob", FLOAT),
        list("region", TEXT),
        list("decision", TEXT),
        list("text_offset", COUNT),
    ];
    format!(
        "optional group signals {{ optional float mean_H; optional float max_H; optional float p95_H;
         optional float mean_V; {counts} optional int64 extra_tokens; optional int64 longest_unsure_span;
         {tokens} }}",
        tokens = tokens.join(" ")
    )
}

fn scores() -> String {
    let columns =
        [list("tokens", ID), list("logprobs", FLOAT), list("entropy", FLOAT), list("varentropy", FLOAT)];
    format!(
        "message score {{ optional binary id (STRING); optional binary request (STRING); {columns} {ERROR} }}",
        columns = columns.join(" ")
    )
}

fn trace() -> String {
    let candidates = list(
        "candidates",
        "group element { optional int32 token; optional float logprob; optional binary text (STRING); }",
    );
    let children = list("children", "group element { optional int64 branch; optional int64 position; }");
    let scores = list("scores", "group element { optional int64 branch; optional double score; }");
    format!(
        "message event {{ optional binary event (STRING); optional binary id (STRING); optional int64 n;
         optional binary prompt (STRING); optional binary messages (JSON);
         optional binary prompt_end (JSON); optional binary parameters (JSON);
         optional int64 choice; optional int64 branch; optional int64 parent; optional int64 fork;
         optional int64 position; optional int32 token; optional binary text (STRING); {bytes}
         optional binary name (STRING); optional float logprob; optional float entropy; optional float varentropy;
         optional float collision; optional float log_z; optional float logit_std;
         optional binary region (STRING); optional binary decision (STRING); optional float temperature;
         {candidates} optional boolean end; optional float attn_entropy; optional float attn_entropy_rel;
         optional float attn_varentropy; optional float head_spread; optional float head_disagreement;
         optional float interaction; optional int64 phrase; optional int64 discarded_tokens; {children} {scores}
         optional binary finish_reason (STRING); optional binary reason (STRING); {USAGE} {ERROR} }}",
        bytes = list("bytes", ID),
    )
}
