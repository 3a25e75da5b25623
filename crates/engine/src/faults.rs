//! Planted faults: each breaks one rule on purpose, so that a test can show that breaking it is noticed.

/// Which rule is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A further holder of a held block is not counted, so the block is freed while it is in use.
    UncountedHolder,
    /// Blocks are published when they are handed out, before the step that fills them.
    EarlyPublication,
    /// Coins come from one stream for all requests.
    SharedCoins,
    /// A half-full block that others read is written in place.
    MissingCopy,
    /// A block that can be found by its content is written in place after a rewind.
    WrittenPublished,
}
