//! One answer of a trace, followed from event to event. Every computed token knows the one before it, so a line is its
//! last token and a length, and lines share what they have in common.

use super::answer::{Answer, Token, kind, number};
use super::{Regions, Wrong};
use crate::jobs::limits::STORY_STEPS;
use entropix_engine::DecisionKind;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Tokens before a fork that are shown with it.
const BEFORE: usize = 24;

/// A line: its last token, none at the start, and its length.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    last: Option<u32>,
    length: usize,
}

/// Lines that compete.
#[derive(Debug)]
struct Contest {
    kind: usize,
    region: Option<usize>,
    /// Lines with the number of tokens that are not their own; the parent first.
    lines: Vec<(u32, usize)>,
}

/// Where an event happened.
#[derive(Debug)]
struct Place {
    /// The token before; none at the start.
    after: Option<u32>,
    /// Tokens before.
    at: usize,
    value: Value,
}

/// An answer while it is followed.
#[derive(Debug, Default)]
pub(super) struct Story {
    tokens: Vec<Token>,
    /// The token before each.
    before: Vec<Option<u32>>,
    /// Bytes of all this, roughly.
    pub(super) n_bytes: usize,
    /// Position of the first token.
    first: Option<u64>,
    lines: BTreeMap<u32, Line>,
    contest: Option<Contest>,
    places: Vec<Place>,
    times: [Option<u64>; DecisionKind::ALL.len()],
    discarded: [Option<u64>; DecisionKind::ALL.len()],
    n_steps: usize,
}

impl Story {
    /// A token joins line `branch`.
    pub(super) fn token(&mut self, branch: u32, token: Token) -> Result<(), Wrong> {
        let first = *self.first.get_or_insert(token.position);
        let line = match self.lines.get_mut(&branch) {
            Some(line) => line,
            None if self.tokens.is_empty() => self.lines.entry(branch).or_default(),
            None => return Err(Wrong::new(format!("a token joins line {branch}, which is not there"))),
        };
        let expected = first + line.length as u64;
        if token.position != expected {
            let is = token.position;
            return Err(Wrong::new(format!(
                "line {branch} goes on at position {is}; its next is {expected}"
            )));
        }
        self.before.push(line.last);
        line.last = Some(self.tokens.len() as u32);
        line.length += 1;
        let heap = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        self.n_bytes += size_of::<Token>() + heap(&token.text) + heap(&token.name);
        self.n_bytes += token.candidates.iter().map(|(.., text)| 48 + text.len()).sum::<usize>();
        self.tokens.push(token);
        Ok(())
    }

    /// A line loses its tokens from `position` on.
    pub(super) fn retract(
        &mut self,
        branch: u32,
        position: u64,
        region: Option<usize>,
        discarded: Option<u64>,
    ) -> Result<(), Wrong> {
        let at = self.place(branch, position)?;
        let line = self.line(branch)?;
        let gone = self.tail(line, at)?;
        let left = self.cut(line, at)?;
        let rewind = kind("rewind").unwrap_or(0);
        self.charge(rewind, discarded);
        let value = json!({"k": "rewind", "g": region, "x": discarded, "i": gone, "before": self.stem(left)});
        self.remember(Place { after: left.last, at, value });
        self.lines.insert(branch, left);
        Ok(())
    }

    /// Lines leave `parent`, each from a position on.
    pub(super) fn fork(
        &mut self,
        parent: u32,
        children: &[(u32, u64)],
        decision: &str,
        region: Option<usize>,
    ) -> Result<(), Wrong> {
        let Some(kind) = kind(decision) else {
            return Err(Wrong::new(format!("{decision:?} is no decision")));
        };
        if let (true, Some(&(_, position))) = (self.tokens.is_empty(), children.first()) {
            // The very first token of an answer may be a choice of several.
            self.first.get_or_insert(position);
            self.lines.entry(parent).or_default();
        }
        let line = self.line(parent)?;
        let mut made = Vec::new();
        for &(child, position) in children {
            let at = self.place(parent, position)?;
            let cut = self.cut(line, at)?;
            if self.lines.insert(child, cut).is_some() {
                return Err(Wrong::new(format!("line {child} is made twice")));
            }
            made.push((child, at));
        }
        match &mut self.contest {
            // A tie is broken by one more.
            Some(contest) => contest.lines.extend(made),
            None => {
                let base = made.first().map_or(line.length, |&(_, at)| at);
                let lines = [(parent, base)].into_iter().chain(made).collect();
                self.contest = Some(Contest { kind, region, lines });
            }
        }
        Ok(())
    }

    /// `winner` goes on, the others end.
    pub(super) fn join(
        &mut self,
        winner: u32,
        scores: &[(u32, Option<f64>)],
        discarded: Option<u64>,
    ) -> Result<(), Wrong> {
        let Some(contest) = self.contest.take() else {
            return Err(Wrong::new(format!("line {winner} wins, and there was no contest")));
        };
        self.settle(&contest, Some(winner), scores, discarded)?;
        for &(branch, _) in contest.lines.iter().filter(|(branch, _)| *branch != winner) {
            self.lines.remove(&branch);
        }
        Ok(())
    }

    /// A phrase is forced.
    pub(super) fn inject(&mut self) {
        *self.times[kind("inject").unwrap_or(0)].get_or_insert(0) += 1;
    }

    /// The answer, as far as it came.
    pub(super) fn answer(mut self, is_over: bool, is_stopped: bool) -> Result<Answer, Wrong> {
        if let Some(contest) = self.contest.take() {
            self.settle(&contest, None, &[], None)?;
        }
        if is_stopped {
            *self.times[kind("stop").unwrap_or(0)].get_or_insert(0) += 1;
        }
        let line = self.lines.values().next().copied().unwrap_or_default();
        let mut way = self.tail(line, 0)?;
        // The end token is no part of the answer.
        if let Some(&last) = way.last()
            && is_over
            && self.tokens[last as usize].text.as_deref() == Some("")
            && self.tokens[last as usize].name.is_some()
        {
            way.pop();
        }
        let mut is_in = vec![false; self.tokens.len()];
        way.iter().for_each(|&place| is_in[place as usize] = true);
        let event = |place: Place| {
            let mut value = place.value;
            let is_there = place.after.is_none_or(|after| is_in[after as usize]);
            value["at"] = json!(place.at);
            if !is_there {
                value["gone"] = json!(true);
            }
            value
        };
        Ok(Answer {
            events: self.places.into_iter().map(event).collect(),
            tokens: self.tokens,
            way: Some(way),
            has_positions: true,
            times: self.times,
            discarded: self.discarded,
            ..Answer::default()
        })
    }

    /// Tells a contest; without a winner it is still open.
    fn settle(
        &mut self,
        contest: &Contest,
        winner: Option<u32>,
        scores: &[(u32, Option<f64>)],
        discarded: Option<u64>,
    ) -> Result<(), Wrong> {
        let mut limbs = Vec::new();
        for &(branch, base) in &contest.lines {
            let line = self.line(branch)?;
            let score = scores.iter().find(|(scored, _)| *scored == branch).and_then(|(_, score)| *score);
            let own = self.tail(line, base.min(line.length))?;
            limbs.push(json!({
                "b": branch, "s": score.map(|score| number(score as f32, 4)), "w": winner == Some(branch),
                "i": own,
            }));
        }
        let chosen = contest.lines.iter().find(|(branch, _)| Some(*branch) == winner);
        let &(branch, at) = chosen.or(contest.lines.first()).unwrap_or(&(0, 0));
        if winner.is_some() && chosen.is_none() {
            return Err(Wrong::new(format!("line {winner:?} wins a contest it is not in")));
        }
        let line = self.line(branch)?;
        let left = self.cut(line, at.min(line.length))?;
        self.charge(contest.kind, discarded);
        let mut value = json!({
            "k": DecisionKind::ALL[contest.kind].name(), "g": contest.region, "x": discarded,
            "p": contest.lines[0].0, "l": limbs, "before": self.stem(left),
        });
        if winner.is_none() {
            value["open"] = json!(true);
        }
        self.remember(Place { after: left.last, at, value });
        Ok(())
    }

    fn remember(&mut self, place: Place) {
        self.n_bytes += 256;
        self.places.push(place);
    }

    fn charge(&mut self, kind: usize, discarded: Option<u64>) {
        *self.times[kind].get_or_insert(0) += 1;
        if let Some(discarded) = discarded {
            let sum = self.discarded[kind].get_or_insert(0);
            *sum = sum.saturating_add(discarded);
        }
    }

    fn line(&self, branch: u32) -> Result<Line, Wrong> {
        let line = self.lines.get(&branch).copied();
        line.ok_or_else(|| Wrong::new(format!("line {branch} is not there")))
    }

    /// How many tokens of a line stand before `position`.
    fn place(&self, branch: u32, position: u64) -> Result<usize, Wrong> {
        let line = self.line(branch)?;
        let at = self.first.and_then(|first| position.checked_sub(first)).map(|at| at as usize);
        at.filter(|at| *at <= line.length).ok_or_else(|| {
            Wrong::new(format!("line {branch} has {} tokens, none at position {position}", line.length))
        })
    }

    /// The first `length` tokens of a line.
    fn cut(&mut self, line: Line, length: usize) -> Result<Line, Wrong> {
        self.walk(line.length - length)?;
        let mut last = line.last;
        for _ in length..line.length {
            last = last.and_then(|place| self.before[place as usize]);
        }
        Ok(Line { last, length })
    }

    /// The tokens of a line behind the first `length`.
    fn tail(&mut self, line: Line, length: usize) -> Result<Vec<u32>, Wrong> {
        self.walk(line.length - length)?;
        self.n_bytes += 4 * (line.length - length);
        let mut found = Vec::with_capacity(line.length - length);
        let mut last = line.last;
        for _ in length..line.length {
            found.extend(last);
            last = last.and_then(|place| self.before[place as usize]);
        }
        found.reverse();
        Ok(found)
    }

    /// The last few tokens of a line.
    fn stem(&self, line: Line) -> Vec<u32> {
        let before = |place: &u32| self.before[*place as usize];
        let mut stem: Vec<u32> = std::iter::successors(line.last, before).take(BEFORE).collect();
        stem.reverse();
        stem
    }

    fn walk(&mut self, n_steps: usize) -> Result<(), Wrong> {
        self.n_steps += n_steps;
        if self.n_steps > STORY_STEPS {
            return Err(Wrong::new(format!(
                "its forks share more than {STORY_STEPS} tokens; that is no answer"
            )));
        }
        Ok(())
    }
}

/// The number of a region by its name; none for none.
pub(super) fn region(name: Option<&str>, regions: &mut Regions) -> Option<usize> {
    name.filter(|name| !name.is_empty()).map(|name| regions.number(name))
}
