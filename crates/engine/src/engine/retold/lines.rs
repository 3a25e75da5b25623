//! Lines of a recorded answer: made, cut and chosen among as the record says.

use super::{Contest, Followed, Line, RetoldAnswer};
use crate::limits::BRANCH_WIDTH;
use crate::{DecisionKind, RegionId};

impl RetoldAnswer {
    /// The next token of a line begins a phrase.
    ///
    /// # Errors
    /// Why the record cannot be so.
    pub fn inject(&mut self, branch: u32, position: usize) -> Followed<()> {
        self.check_next(branch, position)?;
        self.line(branch)?.begins_phrase = true;
        Ok(())
    }

    /// A line loses its tokens from `position` on, for which `discarded` were charged. `region` is who wanted it,
    /// where the record does not say how it was decided. Returns whether it does.
    ///
    /// # Errors
    /// Why the record cannot be so.
    pub fn retract(
        &mut self,
        branch: u32,
        position: usize,
        discarded: usize,
        region: Option<RegionId>,
    ) -> Followed<bool> {
        let (is_known, region) = self.carried_out(DecisionKind::Rewind, region);
        let n_prompt = self.n_prompt();
        let length = self.line(branch)?.tokens.len();
        let place = self.place(position, length)?;
        if place >= length {
            return Err(format!("nothing stands at position {position} of line {branch}"));
        }
        self.attempts += 1;
        self.rewinds += u32::from(region.is_some());
        self.spent = self.spent.saturating_add(discarded);
        let attempt = self.attempts;
        let line = self.line(branch)?;
        let token = line.tokens[place];
        line.cut(n_prompt, place);
        line.continuation.ban(place, token);
        region.into_iter().for_each(|region| line.continuation.begun_by(region));
        line.continuation.attempt = attempt;
        Ok(is_known)
    }

    /// Lines leave `parent`, each with the position of its first own token. As [`RetoldAnswer::retract`].
    ///
    /// # Errors
    /// Why the record cannot be so.
    pub fn fork(
        &mut self,
        parent: u32,
        children: &[(u32, usize)],
        kind: DecisionKind,
        region: Option<RegionId>,
    ) -> Followed<bool> {
        if children.is_empty() || children.len() > usize::from(BRANCH_WIDTH) {
            return Err(format!("{} children; 1 to {BRANCH_WIDTH} are possible", children.len()));
        }
        for (i, (child, _)) in children.iter().enumerate() {
            let is_waiting = self.contest.as_ref().is_some_and(|contest| contest.waiting.contains(child));
            if self.lines.contains_key(child)
                || is_waiting
                || children[..i].iter().any(|(other, _)| other == child)
            {
                return Err(format!("line {child} is begun twice"));
            }
        }
        let n_prompt = self.n_prompt();
        let length = self.line(parent)?.tokens.len();
        let places: Vec<usize> =
            children.iter().map(|&(_, position)| self.place(position, length)).collect::<Followed<_>>()?;
        let ids = children.iter().map(|&(child, _)| child);
        if let Some(contest) = &mut self.contest {
            if children.len() > 1
                || contest.kind != kind
                || contest.lines[0] != parent
                || contest.has_tie_break
            {
                return Err("lines fork while others compete".into());
            }
            contest.has_tie_break = true;
            let number = contest.lines.len() as u32;
            contest.lines.extend(ids);
            let child = self.line(parent)?.child(number, n_prompt, places[0]);
            self.lines.insert(children[0].0, Line { is_given: true, ..child });
            return Ok(true);
        }
        let (mut lines, mut waiting) = (vec![parent], Vec::new());
        let mut is_known = true;
        match kind {
            DecisionKind::Branch => {
                if places.iter().any(|&place| place != length) {
                    return Err("a branch begins anywhere but at the end of its line".into());
                }
                waiting = ids.clone().collect();
            }
            DecisionKind::Rewind | DecisionKind::Refork => {
                let agreed;
                (is_known, agreed) = self.carried_out(kind, region);
                if kind == DecisionKind::Rewind {
                    self.attempts += 1;
                    self.rewinds += u32::from(agreed.is_some());
                } else {
                    self.reforks += u32::from(agreed.is_some());
                }
                let attempt = if kind == DecisionKind::Rewind { self.attempts } else { 0 };
                for ((id, &place), number) in ids.clone().zip(&places).zip(1..) {
                    let line = self.line(parent)?;
                    let mut child = line.child(number, n_prompt, place);
                    if let Some(&token) = line.tokens.get(place) {
                        for line in [&mut line.continuation, &mut child.continuation] {
                            line.ban(place, token);
                            agreed.into_iter().for_each(|region| line.begun_by(region));
                        }
                    }
                    child.continuation.attempt = attempt;
                    self.lines.insert(id, child);
                }
            }
            _ => return Err(format!("lines fork to {}", kind.name())),
        }
        lines.extend(ids);
        self.contest = Some(Contest { kind, lines, waiting, has_tie_break: false });
        Ok(is_known)
    }

    /// One of the lines goes on, the others end; `discarded` tokens were charged.
    ///
    /// # Errors
    /// Why the record cannot be so.
    pub fn join(&mut self, winner: u32, discarded: usize) -> Followed<()> {
        let Some(contest) = self.contest.take() else { return Err("lines join that did not fork".into()) };
        if !contest.lines.contains(&winner) || !self.lines.contains_key(&winner) {
            return Err(format!("line {winner} wins and did not compete"));
        }
        self.spent = self.spent.saturating_add(discarded);
        contest.lines.iter().filter(|&&line| line != winner).for_each(|line| drop(self.lines.remove(line)));
        let line = self.line(winner)?;
        line.continuation.is_tentative = false;
        line.is_given = false;
        line.has_passed = contest.kind == DecisionKind::Rewind && winner != contest.lines[0];
        line.is_untold = true;
        Ok(())
    }

    /// The place in the tokens that are held of a position of the output, its end at most.
    fn place(&self, position: usize, length: usize) -> Followed<usize> {
        let place =
            position.checked_sub(self.offset).filter(|place| (self.n_prompt()..=length).contains(place));
        place.ok_or_else(|| {
            let (first, end) = (self.offset + self.n_prompt(), self.offset + length);
            format!("position {position} of an output that reaches from {first} to {end}")
        })
    }

    /// Whether it is known how something was decided that is carried out now, and the region to hold it against.
    fn carried_out(&mut self, kind: DecisionKind, recorded: Option<RegionId>) -> (bool, Option<RegionId>) {
        match self.begun.take() {
            Some((begun, region)) if begun == kind => (true, region),
            _ => (false, recorded),
        }
    }

    /// Makes the children that wait for the decision about their parent's next token.
    pub(super) fn begin_children(&mut self, parent: u32) -> Followed<()> {
        let n_prompt = self.n_prompt();
        let waiting = match &mut self.contest {
            Some(contest) if contest.lines[0] == parent => std::mem::take(&mut contest.waiting),
            _ => return Ok(()),
        };
        if waiting.is_empty() {
            return Ok(());
        }
        for (id, number) in waiting.into_iter().zip(1..) {
            let line = self.line(parent)?;
            let child = line.child(number, n_prompt, line.tokens.len());
            self.lines.insert(id, Line { next_is_given: true, ..child });
        }
        self.line(parent)?.continuation.become_child();
        Ok(())
    }
}

impl Line {
    /// Child number `number` after `place` tokens.
    fn child(&mut self, number: u32, n_prompt: usize, place: usize) -> Self {
        self.continuation.untell(place - n_prompt);
        let continuation = self.continuation.branch_off(number, &self.tokens, n_prompt, place);
        Self { is_lost: self.is_lost, ..Self::new(self.tokens[..place].to_vec(), continuation) }
    }

    /// Forgets all but the first `place` tokens.
    fn cut(&mut self, n_prompt: usize, place: usize) {
        self.continuation.untell(place - n_prompt);
        self.continuation = self.continuation.cut(&self.tokens, n_prompt, place);
        self.tokens.truncate(place);
        (self.begins_phrase, self.is_untold) = (false, false);
    }
}
