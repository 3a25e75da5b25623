//! Every limit on what a hub answers, one named constant each.

entropix_model::limits! {
    /// Bytes of what a hub says of a repository.
    pub const HUB_ANSWER_BYTES: u64 = 16 << 20;
    /// Seconds that it gets to say it.
    pub const HUB_ANSWER_SECONDS: u64 = 60;
}
