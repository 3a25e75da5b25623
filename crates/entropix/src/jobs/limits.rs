//! Every limit of this module on untrusted input, one named constant each. Those of texts and stop strings are
//! in [`crate::text::limits`].

entropix_model::limits! {
    /// Bytes of one input line.
    pub const LINE_BYTES: usize = 64 << 20;
    /// Bytes of a request's id.
    pub const ID_BYTES: usize = 1024;
    /// Messages of one request, and parts of one message.
    pub const MESSAGES: usize = 16_384;
    /// Tokens of a prompt given as token ids.
    pub const PROMPT_TOKENS: usize = 4 << 20;
    /// Ids in `stop_token_ids`.
    pub const STOP_TOKENS: usize = 256;
    /// Entries in `logit_bias`.
    pub const LOGIT_BIAS_ENTRIES: usize = 1024;
    /// Alternatives reported for a token.
    pub const LOGPROBS: i64 = 256;
    /// Answers to one request.
    pub const N: i64 = 128;
    /// Bad lines that are told before the rest are only counted.
    pub const TOLD_FLAWS: usize = 100;
    /// Bytes of one line of an output that is read again; far more than any answer takes.
    pub const ROW_BYTES: u64 = 1 << 30;
    /// Bytes of a manifest.
    pub const MANIFEST_BYTES: u64 = 16 << 20;
    /// Requests read ahead to begin with the longest.
    pub const AHEAD_ITEMS: usize = 4096;
    /// Bytes of prompts read ahead, but for the last.
    pub const AHEAD_BYTES: usize = 64 << 20;
    /// Bytes of answers in a report; the least doubtful ones go first.
    pub const REPORT_BYTES: usize = 64 << 20;
    /// Bytes of the unfinished answers of a trace that a report holds in memory.
    pub const STORY_BYTES: usize = 512 << 20;
    /// Steps back along lines, over all forks of an answer in a trace.
    pub const STORY_STEPS: usize = 1 << 28;
    /// Bytes of memory (addresses) of the process that decodes Parquet.
    pub const PARQUET_PROCESS_BYTES: u64 = 1 << 30;
    /// Seconds of a processor that it gets for every 128 rows.
    pub const PARQUET_CPU_SECONDS: u64 = 10;
    /// Bytes of the window of a zstd input; the zstd decoder's own limit.
    pub const ZSTD_WINDOW_BYTES: u64 = ruzstd::decoding::DEFAULT_MAX_WINDOW_SIZE;
    /// Problems of a file of labels.
    pub const LABELS: usize = 1_000_000;
    /// Bytes of a summary that a new one may replace; far more than any has.
    pub const SUMMARY_BYTES: u64 = 1 << 20;
    /// Bytes of the first record of a trace; far more than any policy takes.
    pub const TRACE_HEAD_BYTES: u64 = 16 << 20;
    /// Elements of an array of a trace that is replayed.
    pub const TRACE_ELEMENTS: usize = 4096;
    /// Tokens of the answers of a trace that are not over while it is replayed, all their lines together.
    pub const TRACE_OPEN_TOKENS: usize = 1 << 20;
    /// Lines that may be held back to keep the order of the input.
    pub const HELD_BACK: usize = 1024;
}
