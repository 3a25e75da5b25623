//! The engine on a made-up model: every decision, every ending, and storms of random requests held against
//! a plain loop.

mod endings;
mod lines;
mod oracle;
#[cfg(loom)]
mod orders;
mod padding;
mod refusals;
mod requests;
mod scripted;
mod single;
mod storm;
mod wild;

use scripted::{Judge, Model, Scripted};
