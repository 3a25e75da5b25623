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
