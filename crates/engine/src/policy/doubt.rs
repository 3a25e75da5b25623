//! Doubt against the truth: how often answers are right by how doubtful they were, and from where on another
//! line is right more often than the first one.

/// An answer whose truth is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// How doubtful it was; higher is more.
    pub doubt: f64,
    /// Whether it was right.
    pub right: bool,
    /// Whether another line of it was right; none when there is no other line.
    pub other_right: Option<bool>,
}

/// The answers within a stretch of doubt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bin {
    /// The least doubt in it.
    pub from: f64,
    /// Answers.
    pub requests: u64,
    /// Of them, right ones.
    pub right: u64,
    /// Wrong ones whose other line is right.
    pub fixed: u64,
    /// Right ones whose other line is wrong.
    pub broken: u64,
}

/// Bins of equal counts, rising.
const BINS: usize = 5;
/// Deviations of a one-sided bound of 80 %.
const Z: f64 = 0.841_621;

/// The bins, the least doubtful first; fewer where there are fewer answers.
pub fn bins(judged: &[Judged]) -> Vec<Bin> {
    let mut sorted = judged.to_vec();
    sorted.sort_by(|a, b| a.doubt.total_cmp(&b.doubt));
    let n = sorted.len();
    let parts = (0..BINS).map(|i| &sorted[n * i / BINS..n * (i + 1) / BINS]);
    parts
        .filter_map(|part| {
            let count = |wanted: &dyn Fn(&&Judged) -> bool| part.iter().filter(wanted).count() as u64;
            Some(Bin {
                from: part.first()?.doubt,
                requests: part.len() as u64,
                right: count(&|it| it.right),
                fixed: count(&|it| !it.right && it.other_right == Some(true)),
                broken: count(&|it| it.right && it.other_right == Some(false)),
            })
        })
        .collect()
}

/// The least doubt from which on taking the other line gains: the net gain a request, made to rise with doubt
/// (isotonic regression, pooling adjacent violators), is above 0 by a one-sided bound of 80 %. None when it is
/// nowhere.
pub fn replace_from(bins: &[Bin]) -> Option<f64> {
    /// (from, requests, fixed, broken)
    type Block = (f64, u64, u64, u64);
    let gain = |&(_, n, fixed, broken): &Block| (fixed as f64 - broken as f64) / n as f64;
    let mut blocks: Vec<Block> = Vec::new();
    for bin in bins {
        blocks.push((bin.from, bin.requests, bin.fixed, bin.broken));
        while let [.., before, last] = &blocks[..]
            && gain(before) >= gain(last)
        {
            let pooled = (before.0, before.1 + last.1, before.2 + last.2, before.3 + last.3);
            blocks.truncate(blocks.len() - 2);
            blocks.push(pooled);
        }
    }
    let is_sure = |block: &Block| {
        let &(_, n, fixed, broken) = block;
        let mean = gain(block);
        let variance = (fixed + broken) as f64 / n as f64 - mean * mean;
        mean - Z * (variance / n as f64).sqrt() > 0.0
    };
    blocks.iter().rev().take_while(|block| is_sure(block)).last().map(|block| block.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(doubts: std::ops::Range<usize>, right: bool, other: bool) -> Vec<Judged> {
        doubts.map(|doubt| Judged { doubt: doubt as f64, right, other_right: Some(other) }).collect()
    }

    #[test]
    fn other_lines_replace_where_they_gain() {
        // Right below 60; another line breaks every other answer there, and mends half of those from 80 on.
        let mut all = [
            judged(0..30, true, true),
            judged(30..60, true, false),
            judged(60..90, false, false),
            judged(90..100, false, true),
        ]
        .concat();
        all.reverse();
        let bins = super::bins(&all);
        assert_eq!(bins.iter().map(|bin| bin.from).collect::<Vec<_>>(), [0.0, 20.0, 40.0, 60.0, 80.0]);
        assert_eq!(bins[1], Bin { from: 20.0, requests: 20, right: 20, fixed: 0, broken: 10 });
        assert_eq!(bins[4], Bin { from: 80.0, requests: 20, right: 0, fixed: 10, broken: 0 });
        assert_eq!(replace_from(&bins), Some(80.0));
        // One answer mended of twenty is no proof.
        let few = Bin { fixed: 1, ..bins[4] };
        assert_eq!(replace_from(&[bins[3], few]), Some(80.0), "0.05 less 0.84 x 0.049 is above 0, just");
        let even = Bin { fixed: 3, broken: 2, ..bins[4] };
        assert_eq!(replace_from(&[bins[3], even]), None);
        // A lucky bin in the middle does not stand by itself: it is pooled with the one after it.
        let lucky = Bin { fixed: 10, ..bins[3] };
        let bad = Bin { fixed: 0, broken: 12, ..bins[4] };
        assert_eq!(replace_from(&[bins[0], lucky, bad]), None);
        assert_eq!((replace_from(&[]), super::bins(&[])), (None, Vec::new()));
    }
}
