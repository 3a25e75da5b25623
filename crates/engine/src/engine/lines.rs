//! Answers that go beyond one line of tokens: branches, returns, further ends. All of it is one thing: some
//! lines run until they have come as far as they had to, one of them goes on and the others are freed.

use super::Engine;
use super::append::Chosen;
use super::decide::{Decided, Outcome};
use super::judge::{Line, Ruling, rule};
use crate::continuation::Resumed;
use crate::scheduler::SequenceId;
use crate::sequence::{AnswerKey, Sequence};
use crate::{
    Allowance, DecisionKind, Event, FinishReason, Judge, Raw, Refork, RegionId, RequestId, Resume, Rewind,
    Score, TokenClass,
};
use entropix_model::{Candidate, Signals};

/// What an answer spent besides its tokens, and what is undecided about it.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// Tokens thrown away.
    pub(super) spent: usize,
    pub(super) branches: u32,
    pub(super) rewinds: u32,
    pub(super) reforks: u32,
    /// Lines made after the first one.
    n_lines: u32,
    contest: Option<Contest>,
}

/// Lines of which one will go on.
#[derive(Debug)]
struct Contest {
    kind: DecisionKind,
    region: RegionId,
    judge: Judge,
    /// The length at which a line has come far enough; none is its end.
    until: Option<usize>,
    /// A line has also come far enough when it ends a sentence.
    to_sentence_end: bool,
    /// So many own tokens of every line had to be known so far.
    known: usize,
    /// The parent first.
    lines: Vec<Member>,
}

#[derive(Debug, Clone)]
struct Member {
    id: SequenceId,
    /// Tokens it has in common with the parent.
    base: usize,
    finish: Option<FinishReason>,
    /// How it looks to the judge, and with how many own tokens it came far enough; none while it runs.
    arrival: Option<(Line, usize)>,
}

impl Member {
    fn running(id: SequenceId, base: usize) -> Self {
        Self { id, base, finish: None, arrival: None }
    }
}

impl Engine {
    /// What the line may begin besides a token.
    pub(super) fn allowance(&self, id: SequenceId) -> Allowance {
        let Some(sequence) = self.scheduler.get(id) else { panic!("line {id} has ended") };
        let (key, n_output) = (sequence.answer(), sequence.n_output());
        let continuation = sequence.continuation();
        if continuation.is_tentative {
            return Allowance::TENTATIVE;
        }
        let (budget, needs) = (continuation.job.budget, continuation.job.needs);
        let (spent, rewinds, reforks) =
            self.answers.get(&key).map_or((0, 0, 0), |answer| (answer.spent, answer.rewinds, answer.reforks));
        let (discarded, told) =
            (self.earlier.0 + self.stats.discarded_tokens, self.earlier.1 + self.stats.tokens_out);
        let in_batch = |share: f64| share > 0.0 && discarded as f64 <= share * told as f64;
        let in_job = self.options.extra_tokens.is_none_or(in_batch);
        Allowance::within(&budget, needs, n_output, (spent, rewinds, reforks), in_job)
    }

    /// Forgets everything about the answers of a request.
    pub(super) fn forget(&mut self, request: RequestId) {
        let keys = (request, 0)..=(request, u32::MAX);
        while let Some((&key, _)) = self.answers.range(keys.clone()).next() {
            self.answers.remove(&key);
        }
    }

    /// Lets a line go on as several, which begin with the tokens that were drawn for them.
    pub(super) fn branch(
        &mut self,
        decided: &Decided,
        signals: Signals,
        top: &[Candidate],
        events: &mut Vec<Event>,
    ) {
        let Outcome::Branch(branch, first) = &decided.outcome else { return };
        let parent = decided.id;
        self.count(DecisionKind::Branch);
        let key = self.line(parent).answer();
        self.answers.entry(key).or_default().branches += 1;
        let base = self.line(parent).tokens.len();
        let children: Vec<SequenceId> = (1..first.len() as u32)
            .map(|child| {
                let branch = self.next_line(key);
                let (sequence, pool) = self.scheduler.get_with_pool(parent);
                let line = sequence.branch_off(branch, child, base, pool);
                self.scheduler.adopt(line)
            })
            .collect();
        let (sequence, _) = self.scheduler.get_with_pool(parent);
        let most = sequence.n_prompt + sequence.continuation().job.max_tokens;
        sequence.task.continuation_mut().become_child();
        let lines: Vec<SequenceId> = [parent].into_iter().chain(children).collect();
        let horizon = |horizon: u32| base.saturating_add(horizon.max(1) as usize).min(most);
        let contest = Contest {
            kind: DecisionKind::Branch,
            region: decided.region,
            judge: branch.judge.clone(),
            until: branch.horizon.map(horizon),
            to_sentence_end: branch.to_sentence_end,
            known: 0,
            lines: lines.iter().map(|&id| Member::running(id, base)).collect(),
        };
        self.begin(key, contest, events);
        for (&id, &candidate) in lines.iter().zip(first) {
            let chosen = Chosen { candidate, temperature: 0.0 };
            // A line that has lost already has ended.
            let is_there = self.scheduler.get(id).is_some_and(|line| line.answer() == key);
            if is_there {
                self.append(id, decided, chosen, signals, top.to_vec(), events);
            }
        }
    }

    /// Takes tokens of a line back; `finish` is how it had ended, if it had.
    pub(super) fn rewind(
        &mut self,
        id: SequenceId,
        rewind: &Rewind,
        region: RegionId,
        finish: Option<FinishReason>,
        events: &mut Vec<Event>,
    ) {
        self.count(DecisionKind::Rewind);
        let key = self.line(id).answer();
        let answer = self.answers.entry(key).or_default();
        answer.rewinds += 1;
        let attempt = answer.rewinds;
        let resumed = Resumed { resume: rewind.resume, kind: DecisionKind::Rewind, region };
        let (sequence, pool) = self.scheduler.get_with_pool(id);
        let (length, position) = (sequence.tokens.len(), sequence.n_prompt + rewind.to);
        let Some(score) = rewind.keep else {
            let (token, branch) = (sequence.tokens[position], sequence.age.2);
            sequence.cut(position, pool);
            let continuation = sequence.task.continuation_mut();
            continuation.try_no_more(position, token, region);
            (continuation.resumed, continuation.attempt) = (Some(resumed), attempt);
            let discarded = length - position + 1;
            if continuation.job.parameters.raw_events {
                let (request, choice) = key;
                let retract = Raw::Retract { request, choice, branch, position, region, discarded };
                events.push(Event::Raw(retract));
            }
            self.spend(key, discarded);
            self.scheduler.unpark(id);
            return;
        };
        // Where the line that is left ended before the tokens that the score looks at, the new one need not.
        let n_first = if finish.is_some() { score.n_first() } else { 0 };
        let until = length.max(sequence.n_prompt + n_first);
        let child = self.leave(id, 1, position, resumed, attempt);
        let contest = Contest {
            kind: DecisionKind::Rewind,
            region,
            judge: Judge::Best(score),
            until: Some(until),
            to_sentence_end: false,
            known: 0,
            lines: vec![Member { finish, ..Member::running(id, position) }, Member::running(child, position)],
        };
        let contest = self.with_parent_arrived(contest);
        self.begin(key, contest, events);
    }

    /// Ends a finished line again in other ways.
    pub(super) fn refork(
        &mut self,
        id: SequenceId,
        refork: &Refork,
        region: RegionId,
        finish: FinishReason,
        events: &mut Vec<Event>,
    ) {
        let line = self.line(id);
        let (key, n_prompt, points) = (line.answer(), line.n_prompt, &refork.points);
        self.count(DecisionKind::Refork);
        self.answers.entry(key).or_default().reforks += 1;
        let resumed = Resumed { resume: refork.resume, kind: DecisionKind::Refork, region };
        let mut lines = vec![Member { finish: Some(finish), ..Member::running(id, n_prompt + points[0]) }];
        for (&point, child) in points.iter().zip(1..) {
            let base = n_prompt + point;
            let id = self.leave(id, child, base, resumed, 0);
            lines.push(Member::running(id, base));
        }
        let contest = Contest {
            kind: DecisionKind::Refork,
            region,
            judge: refork.judge.clone(),
            until: None,
            to_sentence_end: false,
            known: 0,
            lines,
        };
        let contest = self.with_parent_arrived(contest);
        self.begin(key, contest, events);
        // The parent may weigh more than all of them.
        if let Some(contest) = self.answers.get_mut(&key).and_then(|answer| answer.contest.take()) {
            self.resolve(key, contest, events);
        }
    }

    /// Parks a line and makes another one of its first tokens, which goes on otherwise.
    fn leave(
        &mut self,
        parent: SequenceId,
        child: u32,
        position: usize,
        resumed: Resumed,
        attempt: u32,
    ) -> SequenceId {
        let key = self.line(parent).answer();
        let branch = self.next_line(key);
        let (sequence, pool) = self.scheduler.get_with_pool(parent);
        let mut line = sequence.branch_off(branch, child, position, pool);
        if let Some(&token) = sequence.tokens.get(position) {
            sequence.task.continuation_mut().try_no_more(position, token, resumed.region);
            line.task.continuation_mut().try_no_more(position, token, resumed.region);
        }
        let continuation = line.task.continuation_mut();
        (continuation.resumed, continuation.attempt) = (Some(resumed), attempt);
        self.scheduler.park(parent);
        self.scheduler.adopt(line)
    }

    fn begin(&mut self, key: AnswerKey, contest: Contest, events: &mut Vec<Event>) {
        let parent = self.line(contest.lines[0].id);
        if parent.continuation().job.parameters.raw_events {
            let children = contest.lines[1..].iter().map(|line| (self.line(line.id).age.2, line.base));
            let (children, (request, choice)) = (children.collect(), key);
            let (parent, decision, region) = (parent.age.2, contest.kind, contest.region);
            events.push(Event::Raw(Raw::Fork { request, choice, parent, children, decision, region }));
        }
        let answer = self.answers.entry(key).or_default();
        assert!(answer.contest.is_none(), "a contest within a contest of {key:?}");
        answer.contest = Some(contest);
    }

    fn with_parent_arrived(&self, mut contest: Contest) -> Contest {
        let line = self.before_judge(&contest, &contest.lines[0]);
        contest.lines[0].arrival = Some((line, 0));
        contest
    }

    /// A line of a contest has grown by a token, or ended: it may have come far enough.
    pub(super) fn arrive(&mut self, id: SequenceId, finish: Option<FinishReason>, events: &mut Vec<Event>) {
        let line = self.line(id);
        let (key, length) = (line.answer(), line.tokens.len());
        let ends_sentence =
            line.tokens.last().is_some_and(|&token| self.options.classes.is(token, TokenClass::SentenceEnd));
        let contest = self.answers.get_mut(&key).and_then(|answer| answer.contest.take());
        let Some(mut contest) = contest else { panic!("line {id} of {key:?} has no rivals") };
        let is_far_enough = finish.is_some()
            || contest.until.is_some_and(|until| length >= until)
            || contest.to_sentence_end && ends_sentence;
        if let Some(place) = contest.lines.iter().position(|member| member.id == id && is_far_enough) {
            contest.lines[place].finish = finish;
            let line = self.before_judge(&contest, &contest.lines[place]);
            contest.lines[place].arrival = Some((line, length - contest.lines[place].base));
            self.scheduler.park(id);
        }
        self.resolve(key, contest, events);
    }

    /// What the judge says of the lines, and the most own tokens of a loser he has to know. Lines are judged as
    /// if all ran abreast: who happened to be scheduled first must not decide anything.
    fn ruling(&self, contest: &Contest) -> (Ruling, usize) {
        let is_open = |member: &&Member| member.arrival.is_none();
        let n_own = |member: &Member| self.line(member.id).tokens.len() - member.base;
        let abreast = contest.lines.iter().filter(is_open).map(n_own).min().unwrap_or(usize::MAX);
        let arrivals = contest.lines.iter().filter_map(|member| member.arrival.as_ref());
        let mut times: Vec<usize> = arrivals.map(|arrival| arrival.1).filter(|&t| t <= abreast).collect();
        times.sort_unstable();
        let as_of = |time: usize| {
            let line = |member: &Member| match &member.arrival {
                Some((line, arrived)) if *arrived <= time => line.clone(),
                _ => Line { has_arrived: false, score: 0.0, answer: None },
            };
            rule(&contest.judge, &contest.lines.iter().map(line).collect::<Vec<_>>())
        };
        let rulings = times.into_iter().map(|time| (as_of(time), time));
        rulings.into_iter().find(|(ruling, _)| *ruling != Ruling::Open).unwrap_or((Ruling::Open, 0))
    }

    /// Lets one line go on if the judge has made up its mind.
    fn resolve(&mut self, key: AnswerKey, contest: Contest, events: &mut Vec<Event>) {
        let (ruling, time) = self.ruling(&contest);
        let time = time.max(contest.known);
        let winner = match ruling {
            Ruling::Winner(winner) => winner,
            Ruling::Open => {
                self.answers.entry(key).or_default().contest = Some(contest);
                return;
            }
            Ruling::Tied => return self.break_tie(key, Contest { known: time, ..contest }, events),
        };
        let mut losers: Vec<Member> = contest.lines.clone();
        let winner = losers.remove(winner);
        let is_child = winner.id != contest.lines[0].id;
        let is_run_again = !is_child && contest.kind == DecisionKind::Rewind && winner.finish.is_none();
        let lost = |loser: &Member| {
            let length = self.line(loser.id).tokens.len();
            let is_parent = loser.id == contest.lines[0].id && contest.kind != DecisionKind::Branch;
            // What the parent shares with the winner is not lost.
            if is_parent { length - winner.base } else { (length - loser.base).min(time) }
        };
        // The last token each of the others shares with the parent was run again.
        let shared =
            if contest.kind != DecisionKind::Branch && time > 0 { contest.lines.len() - 1 } else { 0 };
        let discarded = losers.iter().map(lost).sum::<usize>() + shared + usize::from(is_run_again);
        if self.line(winner.id).continuation().job.parameters.raw_events {
            let branch = |member: &Member| self.line(member.id).age.2;
            let score = |member: &Member| member.arrival.as_ref().map_or(f64::NAN, |arrival| arrival.0.score);
            let scores = contest.lines.iter().map(|member| (branch(member), score(member))).collect();
            let ((request, choice), winner) = (key, branch(&winner));
            events.push(Event::Raw(Raw::Join { request, choice, winner, scores, discarded }));
        }
        self.spend(key, discarded);
        losers.iter().for_each(|loser| drop(self.scheduler.remove(loser.id)));
        let (sequence, pool) = self.scheduler.get_with_pool(winner.id);
        let n_output = sequence.n_output();
        if is_run_again {
            sequence.run_last_again(pool);
        }
        let continuation = sequence.task.continuation_mut();
        continuation.is_tentative = false;
        if is_child && contest.kind == DecisionKind::Rewind {
            // It has passed what its parent failed.
            continuation.n_decided = if winner.finish.is_some() { usize::MAX } else { n_output };
        }
        match winner.finish {
            Some(finish) => self.conclude(winner.id, finish, events),
            None => {
                self.scheduler.unpark(winner.id);
                self.tell(winner.id, events);
            }
        }
    }

    /// One more line votes, from the start of what may still be changed.
    fn break_tie(&mut self, key: AnswerKey, mut contest: Contest, events: &mut Vec<Event>) {
        let Judge::Majority { parent_weight, tie_break } = contest.judge else { return };
        contest.judge = Judge::Majority { parent_weight, tie_break: None };
        let parent = contest.lines[0].id;
        let line = self.line(parent);
        let base = line.n_prompt + line.continuation().n_told();
        let resume = Resume { draw: tie_break, throughout: true };
        let resumed = Resumed { resume, kind: contest.kind, region: contest.region };
        let child = contest.lines.len() as u32;
        let branch = self.next_line(key);
        let (sequence, pool) = self.scheduler.get_with_pool(parent);
        let mut line = sequence.branch_off(branch, child, base, pool);
        line.task.continuation_mut().resumed = Some(resumed);
        let is_raw = line.continuation().job.parameters.raw_events;
        let id = self.scheduler.adopt(line);
        contest.lines.push(Member::running(id, base));
        if is_raw {
            let ((request, choice), parent) = (key, self.line(parent).age.2);
            let (decision, region, children) = (contest.kind, contest.region, vec![(branch, base)]);
            events.push(Event::Raw(Raw::Fork { request, choice, parent, children, decision, region }));
        }
        self.answers.entry(key).or_default().contest = Some(contest);
    }

    fn before_judge(&self, contest: &Contest, member: &Member) -> Line {
        let line = self.line(member.id);
        let continuation = line.continuation();
        let n_told = if continuation.job.needs.trace { 0 } else { continuation.n_told() };
        let trace = continuation.said_since(n_told);
        let score = |score: &Score| score.of(trace, member.base - line.n_prompt - n_told);
        let answer = || continuation.job.policy.answer(&line.tokens[line.n_prompt..]);
        let (score, answer) = match &contest.judge {
            Judge::Best(by) => (score(by), None),
            Judge::Majority { .. } => (0.0, answer()),
            Judge::Weighted { score: by, .. } | Judge::Replace(by) => (score(by), answer()),
        };
        Line { has_arrived: true, score, answer }
    }

    fn spend(&mut self, key: AnswerKey, n_tokens: usize) {
        self.answers.entry(key).or_default().spent += n_tokens;
        self.stats.discarded_tokens += n_tokens as u64;
    }

    /// The number of the next line of an answer.
    fn next_line(&mut self, key: AnswerKey) -> u32 {
        let answer = self.answers.entry(key).or_default();
        answer.n_lines += 1;
        answer.n_lines
    }

    fn line(&self, id: SequenceId) -> &Sequence {
        match self.scheduler.get(id) {
            Some(sequence) => sequence,
            None => panic!("line {id} has ended"),
        }
    }
}
