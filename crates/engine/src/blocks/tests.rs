//! The pool and its tables by themselves. The storms of the engine's own tests check them under load.

use super::{BlockPool, BlockTable};
use entropix_model::{BlockCopy, TokenId};

fn check(pool: &BlockPool, tables: &[&BlockTable]) {
    let mut in_tables = vec![0; pool.n_blocks()];
    tables.iter().flat_map(|table| table.blocks()).for_each(|&block| in_tables[block as usize] += 1);
    pool.check(&in_tables);
}

/// A table whose blocks hold `tokens`, computed and published.
fn computed(tokens: &[TokenId], pool: &mut BlockPool) -> BlockTable {
    let mut table = BlockTable::default();
    assert!(table.cover(tokens.len(), pool), "blocks for {} tokens", tokens.len());
    table.publish(tokens, pool);
    table
}

#[test]
fn a_prefix_is_found_up_to_the_limit_and_only_where_it_is_equal() {
    let mut pool = BlockPool::new(8, 2, true);
    let mut first = computed(&[1, 2, 3, 4, 5], &mut pool);
    let mut attach = |tokens: &[TokenId], limit| {
        let mut table = BlockTable::default();
        let n = table.attach(tokens, limit, &mut pool);
        check(&pool, &[&first, &table]);
        table.release(&mut pool);
        n
    };
    assert_eq!(attach(&[1, 2, 3, 4, 5, 6], 5), 4);
    assert_eq!(attach(&[1, 2, 3, 4], 3), 2, "the last position is computed, for its logits");
    assert_eq!(attach(&[1, 2, 9, 4, 5], 4), 2);
    assert_eq!(attach(&[3, 4, 1, 2], 3), 0, "the same tokens at another place are another thing");
    first.release(&mut pool);
    check(&pool, &[]);
    assert_eq!((pool.available(), pool.cached()), (8, 2));
}

/// With every hash the same, only one block is ever published, and nobody is handed a stranger's.
#[test]
fn a_hash_is_not_believed() {
    let mut pool = BlockPool::new(8, 2, true);
    pool.set_hash_bits(0);
    let first = computed(&[1, 2, 3, 4], &mut pool);
    let second = computed(&[5, 6, 7, 8], &mut pool);
    assert_eq!(pool.n_published(), 1);
    let mut third = BlockTable::default();
    assert_eq!(third.attach(&[5, 6, 7, 8, 9], 4, &mut pool), 0);
    assert_eq!(third.attach(&[1, 2, 3, 4, 9], 4, &mut pool), 2);
    check(&pool, &[&first, &second, &third]);
}

/// A block that could not be published stays so: tables that share it must not come to disagree about what it
/// follows, or it could outlive that.
#[test]
fn a_table_that_met_a_collision_publishes_no_more() {
    for last in 0..16 {
        let mut pool = BlockPool::new(8, 2, true);
        pool.set_hash_bits(1);
        let tokens = [1, 2, 3, last];
        let mut others = (10..).map(|token| computed(&[token, token], &mut pool));
        let mut in_the_way: Vec<BlockTable> = others.by_ref().take(2).collect();
        drop(others);
        let mut table = computed(&tokens, &mut pool);
        let mut fork = table.fork(&mut pool);
        let is_blocked = pool.find(None, &tokens[..2]).is_none();
        in_the_way.iter_mut().for_each(|table| table.release(&mut pool));
        let mut rest = BlockTable::default();
        assert!(rest.cover(2 * pool.available(), &mut pool), "all that is left");
        rest.release(&mut pool);
        let mut twin = computed(&tokens[..2], &mut pool);
        table.publish(&tokens, &mut pool);
        check(&pool, &[&table, &fork, &twin]);
        assert!(is_blocked, "both hashes were taken");
        twin.release(&mut pool);
        table.release(&mut pool);
        fork.release(&mut pool);
        check(&pool, &[]);
        assert!(rest.cover(16, &mut pool), "every block can be taken again");
    }
}

#[test]
fn the_least_recently_used_goes_first_and_the_end_before_the_beginning() {
    let mut pool = BlockPool::new(4, 2, true);
    let mut old = computed(&[1, 2, 3, 4], &mut pool);
    let mut new = computed(&[5, 6, 7, 8], &mut pool);
    old.release(&mut pool);
    new.release(&mut pool);
    let is_cached = |pool: &mut BlockPool, tokens: &[TokenId]| {
        let mut table = BlockTable::default();
        let n = table.attach(tokens, tokens.len(), pool);
        table.release(pool);
        n
    };
    let mut taken = BlockTable::default();
    assert!(taken.cover(2, &mut pool), "a block is idle");
    assert_eq!(is_cached(&mut pool, &[1, 2, 3, 4]), 2, "its end is gone");
    assert_eq!(is_cached(&mut pool, &[5, 6, 7, 8]), 4);
    assert!(taken.cover(4, &mut pool), "a block is idle");
    assert_eq!(is_cached(&mut pool, &[5, 6, 7, 8]), 4, "asked for last");
    assert_eq!(is_cached(&mut pool, &[1, 2]), 0);
    assert!(!taken.cover(100, &mut pool), "all or nothing");
    assert_eq!(taken.len(), 2);
    check(&pool, &[&taken]);
}

/// Blocks that were never written are left alone while enough others are kept, and what was freed without content comes first.
#[test]
fn no_more_blocks_are_touched_than_are_kept_beside_those_in_use() {
    for most_idle in 0..6 {
        let mut pool = BlockPool::new(64, 2, true).keeping(most_idle);
        let mut touched = std::collections::BTreeSet::new();
        for request in 0..40 {
            // Three blocks with content, and a last one that is not full.
            let tokens: Vec<TokenId> = (0..7).map(|i| 100 * request + i).collect();
            let mut table = computed(&tokens, &mut pool);
            touched.extend(table.blocks().iter().copied());
            check(&pool, &[&table]);
            table.release(&mut pool);
            check(&pool, &[]);
            let mut again = BlockTable::default();
            let n = again.attach(&tokens, 6, &mut pool);
            assert_eq!(n, 6, "the last request is kept while nobody takes its blocks");
            again.release(&mut pool);
        }
        // Three are in use when the last one kept may not be taken.
        assert_eq!(touched.len(), most_idle.max(1) + 3, "{most_idle} kept");
        let mut rest = BlockTable::default();
        assert!(rest.cover(1, &mut pool), "a block is free");
        assert_eq!(pool.cached(), touched.len() - 1, "content is lost while a block without any is free");
        assert!(rest.cover(128, &mut pool), "every block can be taken all the same");
        check(&pool, &[&rest]);
    }
}

#[test]
fn twins_become_one() {
    let mut pool = BlockPool::new(8, 2, true);
    let first = computed(&[1, 2, 3, 4], &mut pool);
    let second = computed(&[1, 2, 3, 4, 5], &mut pool);
    assert_eq!(second.blocks()[..2], first.blocks()[..2]);
    assert_eq!(pool.available(), 8 - 3);
    check(&pool, &[&first, &second]);
}

#[test]
fn a_shared_tail_is_copied_before_it_is_written() {
    let mut pool = BlockPool::new(8, 4, true);
    let mut first = computed(&[1, 2, 3, 4, 5, 6], &mut pool);
    let mut second = first.fork(&mut pool);
    let mut copies = Vec::new();
    assert!(second.own_tail(6, &mut pool, &mut copies), "blocks are free");
    let (from, to) = (first.blocks()[1], second.blocks()[1]);
    assert_eq!(copies, [BlockCopy { from, to, tokens: 2 }]);
    assert!(first.own_tail(6, &mut pool, &mut copies), "nothing to do");
    assert_eq!(copies.len(), 1, "the last holder writes in place");
    assert_eq!(first.blocks()[0], second.blocks()[0]);
    check(&pool, &[&first, &second]);
    first.release(&mut pool);
    check(&pool, &[&second]);
}

#[test]
fn without_sharing_nothing_stays() {
    let mut pool = BlockPool::new(4, 2, false);
    let mut table = computed(&[1, 2, 3, 4], &mut pool);
    table.release(&mut pool);
    assert_eq!((pool.available(), pool.cached(), pool.n_published()), (4, 0, 0));
    assert_eq!(BlockTable::default().attach(&[1, 2, 3, 4], 4, &mut pool), 0);
}
