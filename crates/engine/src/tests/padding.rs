//! Embeddings are padded; what pads them is no token.

use super::scripted;
use super::single::{CAPACITY, MODEL, at_most, engine_with, finish, generate, preset, split};
use entropix_model::{TokenId, TokenMask};

/// Rows that pad the vocabulary are never sampled, drawn or best. Without the mask the same requests take them.
#[test]
fn rows_that_stand_for_no_token_are_never_taken() {
    let is_padding = |token: TokenId| token == 4;
    let tokens_of = |preset_name: &str, masked: bool| -> Vec<TokenId> {
        let mut engine = engine_with(CAPACITY, MODEL, |options| {
            let mut choosable = TokenMask::none(scripted::VOCAB);
            (0..scripted::VOCAB as TokenId).filter(|t| !is_padding(*t)).for_each(|t| choosable.allow(t));
            options.choosable = masked.then_some(choosable);
        });
        for first in 0..12 {
            engine.submit(generate(&[first, 2], at_most(6), preset(preset_name))).expect("a sound request");
        }
        split(finish(&mut engine)).0.iter().map(|token| token.token).collect()
    };
    for preset_name in ["greedy", "sample", "attic"] {
        assert!(tokens_of(preset_name, false).iter().any(|t| is_padding(*t)), "{preset_name} unmasked");
        assert!(!tokens_of(preset_name, true).iter().any(|t| is_padding(*t)), "{preset_name} masked");
    }
}
