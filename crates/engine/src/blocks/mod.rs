//! The blocks of the cache: who holds which, which are worth keeping, and which may be shared.
//!
//! Every block is in exactly one of three states: held by at least one table, idle (held by none, but its
//! content is published and may be asked for again) or free. `free + idle + held` is the whole pool after
//! every operation.

mod idle;
mod pool;
mod prefix;
mod table;

pub(crate) use pool::BlockPool;
pub(crate) use table::BlockTable;

#[cfg(test)]
mod tests;
