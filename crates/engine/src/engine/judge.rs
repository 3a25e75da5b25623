//! Which of several lines goes on.

use crate::Judge;
use std::sync::Arc;

/// A line before its judge.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line {
    /// Whether it has come as far as it had to; else the rest means nothing.
    pub(super) has_arrived: bool,
    /// Higher is better; 0 when the judge asks for none.
    pub(super) score: f64,
    /// What it says in the end.
    pub(super) answer: Option<Arc<str>>,
}

/// What a judge says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ruling {
    /// This line.
    Winner(usize),
    /// Wait for the others.
    Open,
    /// No answer leads: one more line is wanted.
    Tied,
}

/// Judges `lines`, the parent first. A tie is a ruling only while a further line may be made.
pub(super) fn rule(judge: &Judge, lines: &[Line]) -> Ruling {
    let all_arrived = lines.iter().all(|line| line.has_arrived);
    match judge {
        &Judge::Majority { parent_weight, tie_break } => {
            let weights = lines.iter().enumerate().map(|(i, _)| if i == 0 { parent_weight } else { 1.0 });
            majority(lines, &weights.collect::<Vec<_>>(), tie_break.is_some())
        }
        _ if !all_arrived => Ruling::Open,
        Judge::Best(_) => Ruling::Winner(best(lines, |_| true).unwrap_or(0)),
        &Judge::Weighted { parent_weight, .. } => {
            let own = |i| if i == 0 { parent_weight } else { 1.0 };
            let weights = lines.iter().enumerate().map(|(i, line)| own(i) * line.score.exp());
            majority(lines, &weights.collect::<Vec<_>>(), false)
        }
        Judge::Replace(_) => {
            let others = |line: &Line| line.answer.is_some() && line.answer != lines[0].answer;
            Ruling::Winner(best(lines, others).unwrap_or(0))
        }
    }
}

/// The place of the highest score, ties to the earlier.
fn best(lines: &[Line], wanted: impl Fn(&Line) -> bool) -> Option<usize> {
    let better = |best: Option<usize>, (i, line): (usize, &Line)| match best {
        _ if !wanted(line) => best,
        Some(best) if lines[best].score >= line.score => Some(best),
        _ => Some(i),
    };
    lines.iter().enumerate().fold(None, better)
}

fn majority(lines: &[Line], weights: &[f64], breaks_ties: bool) -> Ruling {
    // Each answer with its votes, in the order of the lines that gave it first.
    let mut votes: Vec<(usize, f64)> = Vec::new();
    let mut open = 0.0;
    for (i, (line, weight)) in lines.iter().zip(weights).enumerate() {
        if !line.has_arrived {
            open += weight;
        } else if line.answer.is_some() {
            match votes.iter_mut().find(|(first, _)| lines[*first].answer == line.answer) {
                Some((_, sum)) => *sum += weight,
                None => votes.push((i, *weight)),
            }
        }
    }
    let mut leader: Option<(usize, f64)> = None;
    let mut second = 0.0f64;
    for &(first, sum) in &votes {
        match leader {
            Some((_, most)) if most >= sum => second = second.max(sum),
            _ => {
                second = leader.map_or(0.0, |(_, most)| most);
                leader = Some((first, sum));
            }
        }
    }
    match leader {
        Some((winner, most)) if most > second + open => Ruling::Winner(winner),
        _ if open > 0.0 || lines.iter().any(|line| !line.has_arrived) => Ruling::Open,
        None => Ruling::Winner(0),
        Some(_) if breaks_ties => Ruling::Tied,
        // The parent when it is among those who tie, else the earliest of them.
        Some((winner, _)) => Ruling::Winner(winner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Score;

    fn line(answer: &str, score: f64) -> Line {
        Line {
            has_arrived: answer != "?",
            score,
            answer: (answer.len() == 1 && answer != "?" && answer != "-").then(|| answer.into()),
        }
    }

    fn lines(answers: &str) -> Vec<Line> {
        answers.chars().map(|c| line(&c.to_string(), 0.0)).collect()
    }

    /// `a` to `z` are answers, `-` is an end without one, `?` has not arrived.
    #[test]
    fn majorities() {
        let plain =
            |answers: &str| rule(&Judge::Majority { parent_weight: 1.0, tie_break: None }, &lines(answers));
        let broken = |answers: &str| {
            rule(
                &Judge::Majority { parent_weight: 1.0, tie_break: Some(Default::default()) },
                &lines(answers),
            )
        };
        for (answers, ruling) in [
            ("abb", Ruling::Winner(1)),
            ("aab", Ruling::Winner(0)),
            ("abc", Ruling::Winner(0)),
            ("-bc", Ruling::Winner(1)),
            ("---", Ruling::Winner(0)),
            ("-b-", Ruling::Winner(1)),
            ("aa?", Ruling::Winner(0)),
            ("ab?", Ruling::Open),
            ("a??", Ruling::Open),
            ("abb?", Ruling::Open),
            ("abbb?", Ruling::Winner(1)),
        ] {
            assert_eq!(plain(answers), ruling, "{answers}");
        }
        assert_eq!(broken("ab"), Ruling::Tied);
        assert_eq!(broken("abb"), Ruling::Winner(1));
        assert_eq!(broken("--"), Ruling::Winner(0), "nothing to break");
        let heavy = Judge::Majority { parent_weight: 2.5, tie_break: None };
        assert_eq!(rule(&heavy, &lines("abb")), Ruling::Winner(0));
    }

    #[test]
    fn scores() {
        let all = [line("a", -2.0), line("b", -1.0), line("c", -1.0), line("-", 5.0)];
        assert_eq!(rule(&Judge::Best(Score::MeanLogp), &all), Ruling::Winner(3));
        assert_eq!(rule(&Judge::Best(Score::MeanLogp), &all[..3]), Ruling::Winner(1), "ties to the earlier");
        assert_eq!(rule(&Judge::Replace(Score::MeanLogp), &all), Ruling::Winner(1));
        let same = [line("a", -2.0), line("a", -1.0)];
        assert_eq!(rule(&Judge::Replace(Score::MeanLogp), &same), Ruling::Winner(0), "they agree");
        let weighted = Judge::Weighted { score: Score::MeanLogp, parent_weight: 1.0 };
        assert_eq!(rule(&weighted, &[line("a", 0.0), line("b", -1.0), line("b", -1.0)]), Ruling::Winner(0));
        assert_eq!(rule(&weighted, &[line("a", 0.0), line("b", -0.5), line("b", -0.5)]), Ruling::Winner(1));
        assert_eq!(rule(&weighted, &[line("a", 0.0), line("?", 0.0)]), Ruling::Open);
    }
}
