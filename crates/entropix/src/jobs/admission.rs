//! Which items of an input a run takes on, and in which order.

use super::done::Done;
use super::input::Item;
use super::limits::{AHEAD_BYTES, AHEAD_ITEMS};
use super::request::{JobRequest, Prompt};
use super::shard::Shard;
use crate::text::{Content, Message};
use entropix_model::Result;

/// The items of `shard` that are not done.
pub fn pending<'a, L: 'a>(
    items: impl Iterator<Item = Result<Item<L>>> + 'a,
    shard: Shard,
    done: &'a Done,
) -> impl Iterator<Item = Result<Item<L>>> + 'a {
    items.filter_map(move |item| {
        let item = match item {
            Ok(item) => item,
            Err(error) => return Some(Err(error)),
        };
        if !shard.contains(&item.id) {
            return None;
        }
        match done.is_pending(&item.id, &item.hash) {
            Ok(true) => Some(Ok(item)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    })
}

/// The same items, in every stretch of [`AHEAD_ITEMS`] those first that will take longest, so that no long one is
/// left alone at the end. Answers do not depend on the order; only the time the job takes does.
pub fn longest_first(
    mut items: impl Iterator<Item = Result<Item<JobRequest>>>,
) -> impl Iterator<Item = Result<Item<JobRequest>>> {
    let mut ahead: Vec<Item<JobRequest>> = Vec::new();
    let mut failed = None;
    std::iter::from_fn(move || {
        if ahead.is_empty() && failed.is_none() {
            let mut n_bytes = 0;
            while ahead.len() < AHEAD_ITEMS && n_bytes < AHEAD_BYTES {
                match items.next() {
                    None => break,
                    Some(Ok(item)) => {
                        n_bytes += length(&item);
                        ahead.push(item);
                    }
                    Some(Err(error)) => {
                        failed = Some(error);
                        break;
                    }
                }
            }
            // Taken from the end; equals keep the order of the input.
            ahead.reverse();
            ahead.sort_by_key(work);
        }
        ahead.pop().map(Ok).or_else(|| failed.take().map(Err))
    })
}

/// Bytes of the prompt, more or less.
fn length(item: &Item<JobRequest>) -> usize {
    match item.request.as_ref().map(|request| &request.prompt) {
        Ok(Prompt::Text(text)) => text.len(),
        Ok(Prompt::Tokens(tokens)) => tokens.len() * 4,
        Ok(Prompt::Messages(turns)) => turns.iter().map(said).sum(),
        Err(_) => 0,
    }
}

fn said(turn: &Message) -> usize {
    match &turn.content {
        Some(Content::Text(text)) => text.len(),
        Some(Content::Parts(parts)) => {
            parts.iter().filter_map(|part| part.text.as_ref()).map(String::len).sum()
        }
        None => 0,
    }
}

/// How long an answer takes, roughly: a token of an answer takes as long as many of a prompt.
fn work(item: &Item<JobRequest>) -> usize {
    let answer = item.request.as_ref().map_or(0, |request| {
        // Answers nobody bounds end when they will.
        request.params.max_tokens.unwrap_or(1024).saturating_mul(request.params.n.unwrap_or(1))
    });
    length(item).saturating_add(answer.saturating_mul(64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::PlainText;
    use crate::jobs::params::Params;

    fn item(id: &str, prompt: &str, max_tokens: usize) -> Result<Item<JobRequest>> {
        let request = JobRequest {
            params: Params { max_tokens: Some(max_tokens), ..Params::default() },
            ..JobRequest::from_plain(prompt, PlainText::Raw)
        };
        Ok(Item { id: id.into(), hash: "0".repeat(16), request: Ok(request) })
    }

    #[test]
    fn the_longest_come_first() {
        let items = vec![item("a", "x", 1), item("b", "x", 9), item("c", "xxx", 1), item("d", "x", 1)];
        let order: Vec<String> = longest_first(items.into_iter()).map(|item| item.unwrap().id).collect();
        assert_eq!(order, ["b", "c", "a", "d"]);
    }

    #[test]
    fn nothing_is_lost_before_a_failure() {
        let error = entropix_model::Error::data("Line", "bad");
        let items = vec![item("a", "x", 1), item("b", "x", 9), Err(error.clone())];
        let all: Vec<_> = longest_first(items.into_iter()).map(|item| item.map(|item| item.id)).collect();
        assert_eq!(all, [Ok("b".into()), Ok("a".into()), Err(error)]);
    }

    #[test]
    fn what_is_read_ahead_is_bounded() {
        let mut n_read = 0;
        let items = (0..3 * AHEAD_ITEMS).map(|i| item(&i.to_string(), "x", 1)).inspect(|_| n_read += 1);
        assert!(longest_first(items).next().is_some());
        assert_eq!(n_read, AHEAD_ITEMS);
    }
}
