//! Every limit on what a caller may ask, one named constant each.

entropix_model::limits! {
    /// Answers a request ([`crate::Parameters::n`]).
    pub const CHOICES: u32 = 128;
    /// Entries of [`crate::Parameters::stop_tokens`].
    pub const STOP_TOKENS: usize = 1024;
    /// Draws of one token ([`crate::Decision::BestOf`]): the address of a coin has 8 bits for them.
    pub const BEST_OF: u16 = 256;
    /// Tokens of an injected phrase.
    pub const PHRASE_TOKENS: usize = 64;
    /// Bytes of a policy file.
    pub const POLICY_BYTES: usize = 256 << 10;
    /// Bytes of a name or a word in a policy file.
    pub const POLICY_NAME_BYTES: usize = 64;
    /// Bytes of a phrase, a reason, an expression or a description in a policy file.
    pub const POLICY_TEXT_BYTES: usize = 4096;
    /// The largest number of a policy file, up or down: far from where arithmetic would overflow.
    pub const POLICY_NUMBER: f64 = 1e9;
    /// Tokens of an output that a span or a checkpoint of a policy may be about.
    pub const POLICY_SPAN: i64 = 1 << 24;
    /// Tokens that a policy may look ahead to judge a branch, or back to rewind.
    pub const POLICY_HORIZON: i64 = 1 << 20;
    /// Attempts of a rewind or a refork, and the rank of the token it goes on with.
    pub const POLICY_ATTEMPTS: i64 = 64;
    /// Bytes of a calibration file.
    pub const CALIBRATION_BYTES: usize = 1 << 20;
    /// Regions of a policy file.
    pub const POLICY_REGIONS: usize = 64;
    /// Steps without a row or an event, while there is work, after which the engine gives up: it is a fault
    /// of its own, and turning in place for ever would hide it.
    pub const EMPTY_STEPS: u32 = 8;
    /// Tokens a policy picks from ([`crate::Decision::Pick`]).
    pub const PICK: u16 = 128;
    /// Children of a [`crate::Branch`].
    pub const BRANCH_WIDTH: u8 = 16;
    /// Rewinds of an answer ([`crate::Budget::rewinds`]).
    pub const REWINDS: u32 = 64;
    /// Reforks of an answer ([`crate::Budget::reforks`]).
    pub const REFORKS: u32 = 16;
    /// Children of a [`crate::Refork`].
    pub const REFORK_POINTS: usize = 16;
}
