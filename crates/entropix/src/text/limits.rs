//! Every limit of this module on untrusted input, one named constant each.

entropix_model::limits! {
    /// Bytes of a tokenizer.json (the largest in common use has 34 MB).
    pub const TOKENIZER_BYTES: u64 = 128 << 20;
    /// Bytes of a tokenizer_config.json.
    pub const TOKENIZER_CONFIG_BYTES: u64 = 16 << 20;
    /// Tokens of a vocabulary (the largest in common use has 262,144).
    pub const TOKENS: usize = 1 << 22;
    /// Bytes of one token as stored.
    pub const TOKEN_BYTES: usize = 4096;
    /// Bytes of a regular expression in a tokenizer.json.
    pub const PATTERN_BYTES: usize = 64 << 10;
    /// Parts of a normalizer or pre-tokenizer; each goes through the whole text.
    pub const TOKENIZER_PARTS: usize = 64;
    /// Bytes that normalizer and pre-tokenizer together may make of one (`NFKC` alone makes 11, a sentencepiece blank 3).
    pub const TOKENIZER_GROWTH: usize = 64;
    /// Bytes of one text to be encoded, as given and as normalised.
    pub const TEXT_BYTES: usize = 16 << 20;
    /// Bytes that normalizer and pre-tokenizer may make of one text: of the longest, six times as many (`NFC`, then
    /// `ByteLevel`).
    pub const GROWN_TEXT_BYTES: usize = 96 << 20;
    /// Bytes of one unbroken run of blanks: what `\s+(?!\S)` costs grows with the run, and the regex engine gives
    /// up, without a word, at a million.
    pub const BLANK_RUN_BYTES: usize = 500_000;
    /// Bytes of a prompt file, or of a prompt on standard input.
    pub const PROMPT_BYTES: u64 = 64 << 20;
    /// Bytes of the compiled expression by which a policy reads answers.
    pub const ANSWER_REGEX_BYTES: usize = 1 << 20;
    /// Stop strings of a request.
    pub const STOP_STRINGS: usize = 64;
    /// Bytes of a stop string.
    pub const STOP_BYTES: usize = 4096;
    /// Bytes of a chat template.
    pub const TEMPLATE_BYTES: u64 = 1 << 20;
    /// Instructions a rendering may execute; a long chat takes some ten thousand.
    pub const TEMPLATE_FUEL: u64 = 2_000_000;
    /// Macro calls a rendering may stack.
    pub const TEMPLATE_DEPTH: usize = 100;
    /// Lists and maps in one another that `tojson` in a template writes; serde_json reads as many.
    pub const TEMPLATE_JSON_DEPTH: usize = 128;
    /// Bytes of stack a rendering gets: lists nested as deep as the fuel allows are taken down on it.
    pub const TEMPLATE_STACK_BYTES: usize = 256 << 20;
    /// Bytes a rendering may put out.
    pub const TEMPLATE_OUTPUT_BYTES: usize = 32 << 20;
    /// Bytes of a string, or items of a list, that a filter of a template may make.
    pub const TEMPLATE_VALUE_SIZE: usize = 32 << 20;
    /// Bytes and items that all filters and methods of a rendering may go through.
    pub const TEMPLATE_WORK: u64 = 512 << 20;
    /// Bytes of memory (addresses) of the process that renders templates nobody knows.
    pub const TEMPLATE_PROCESS_BYTES: u64 = 512 << 20;
    /// Seconds of a processor that it gets for a chat, and at most one more.
    pub const TEMPLATE_CPU_SECONDS: u64 = 5;
}
