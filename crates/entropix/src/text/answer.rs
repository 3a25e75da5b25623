//! What a text says in the end, in a form in which equal answers are equal texts.

use super::Tokenizer;
use super::limits::ANSWER_REGEX_BYTES;
use entropix_engine::{AnswerRule, ReadAnswer};
use entropix_model::{Class, Error, Result, TokenId};
use regex::Regex;
use std::sync::Arc;

/// Who reads the answers of a policy out of tokens.
///
/// # Errors
/// `Config` for an expression that is none or too large.
pub fn answer_reader(rule: &AnswerRule, tokenizer: &Arc<Tokenizer>) -> Result<Arc<ReadAnswer>> {
    let find = finder(rule)?;
    let tokenizer = Arc::clone(tokenizer);
    Ok(Arc::new(move |output: &[TokenId]| {
        let answer = find(&tokenizer.decode(output))?;
        (!answer.is_empty()).then(|| answer.into())
    }))
}

/// What a text says in the end by `rule`.
///
/// # Errors
/// `Config` for an expression that is none or too large.
pub fn find_answer(rule: &AnswerRule, text: &str) -> Result<Option<String>> {
    Ok(finder(rule)?(text).filter(|answer| !answer.is_empty()))
}

type Find = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

fn finder(rule: &AnswerRule) -> Result<Find> {
    let compile = |pattern: &str| {
        regex::RegexBuilder::new(pattern).size_limit(ANSWER_REGEX_BYTES).build().map_err(|error| {
            Error::new(Class::Config, "Regex", format!("the policy's answer {pattern:?}: {error}"))
        })
    };
    Ok(match rule {
        AnswerRule::LastNumber => {
            let number = compile(r"-?\d[\d,]*(?:\.\d+)?")?;
            Box::new(move |text| number.find_iter(text).last().map(|found| plain(found.as_str())))
        }
        AnswerRule::Boxed => Box::new(|text| boxed(text).map(plain)),
        AnswerRule::Regex(pattern) => {
            let pattern: Regex = compile(pattern)?;
            Box::new(move |text| {
                let last = pattern.captures_iter(text).last()?;
                Some(plain(last.get(1).or(last.get(0))?.as_str()))
            })
        }
    })
}

/// A number without its commas and the zeros that say nothing; any other text trimmed.
fn plain(text: &str) -> String {
    let text = text.trim();
    let number = text.replace([',', '$', '%'], "");
    let number = number.trim().trim_end_matches('.');
    match number.parse::<f64>() {
        Ok(_) if number.contains('.') && !number.contains(['e', 'E']) => {
            number.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        Ok(value) if value.is_finite() => number.to_owned(),
        _ => text.to_owned(),
    }
}

/// What stands in the last `\boxed{...}`, braces within it matched.
fn boxed(text: &str) -> Option<&str> {
    const OPEN: &str = r"\boxed{";
    let inside = &text[text.rfind(OPEN)? + OPEN.len()..];
    let mut depth = 1;
    let end = inside.find(|c| {
        depth += match c {
            '{' => 1,
            '}' => -1,
            _ => 0,
        };
        depth == 0
    })?;
    Some(&inside[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_answers_are_equal_texts() {
        let read = |rule: AnswerRule, text: &str| finder(&rule).unwrap()(text);
        let number = |text| read(AnswerRule::LastNumber, text);
        assert_eq!(number("so 3 apples cost $1,234.50."), Some("1234.5".into()));
        assert_eq!(number("7 * 6 = 42.00"), Some("42".into()));
        assert_eq!(number("100"), Some("100".into()), "these zeros mean something");
        assert_eq!(number("minus -3"), Some("-3".into()));
        assert_eq!(number("none"), None);
        let boxed = |text| read(AnswerRule::Boxed, text);
        assert_eq!(boxed(r"\boxed{1} or \boxed{\frac{1}{2}}"), Some(r"\frac{1}{2}".into()));
        assert_eq!(boxed(r"\boxed{ 1,000 }"), Some("1000".into()));
        assert_eq!(boxed(r"\boxed{1"), None);
        let regex = |text| read(AnswerRule::Regex(r"(?m)^Answer: (.*)$".into()), text);
        assert_eq!(regex("Answer: A\nAnswer: B \n"), Some("B".into()));
        assert_eq!(finder(&AnswerRule::Regex("(".into())).err().map(|e| e.code), Some("Regex"));
    }
}
