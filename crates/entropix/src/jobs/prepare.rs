//! From a request of a job to a request of the engine: text becomes tokens, and every parameter gets its
//! value.

use super::answers::Answers;
use super::params::Params;
use super::request::{JobRequest, Prompt};
use crate::Session;
use crate::text::{Message, Special, StopWatcher, Stops};
use entropix_engine::{Generate, Parameters, Policy, Request, RequestKey, Watcher, Work};
use entropix_model::{Result, TokenId};
use std::sync::Arc;

/// How the prompts of a job become tokens.
#[derive(Debug, Clone)]
pub struct Preparation {
    /// What special tokens spelled out in a raw prompt are; in messages they are always text.
    pub special: Special,
    /// Put before conversations that have no system message of their own.
    pub system: Option<String>,
}

/// A request ready for the engine, and where its answers go.
pub struct Prepared {
    /// For the engine.
    pub request: Request,
    /// For what comes back.
    pub answers: Answers,
}

impl Preparation {
    /// Prepares the request known as `id`; what it leaves open is taken from `defaults`.
    ///
    /// # Errors
    /// `Data` for what cannot be encoded or rendered; limits are the engine's to check.
    pub fn prepare(
        &self,
        session: &Session,
        id: &str,
        request: JobRequest,
        defaults: &Params,
        policy: &Arc<dyn Policy>,
    ) -> Result<Prepared> {
        let prompt = self.tokens(session, &request.prompt)?;
        let params = request.params.or(defaults);
        let min_tokens = params.min_tokens.unwrap_or(0);
        let stops = Stops::new(params.stop.as_deref().unwrap_or(&[]))?;
        let tokenizer = session.tokenizer();
        let answers = Answers::new(params.n.unwrap_or(1), params.logprobs, tokenizer, &stops, min_tokens);
        let watcher = (!stops.is_empty())
            .then(|| Box::new(StopWatcher::new(tokenizer.clone(), stops)) as Box<dyn Watcher>);
        let mut parameters = parameters(&params);
        if request.params.max_tokens.is_none() {
            // A default is a wish, not a demand: what the context cannot hold is not an error.
            let room = session.context_limit().saturating_sub(prompt.len());
            parameters.max_tokens =
                parameters.max_tokens.map(|most| if most == 0 { 0 } else { most.min(room.max(1)) });
            let most = parameters.max_tokens.unwrap_or(room);
            if request.params.min_tokens.is_none() {
                parameters.min_tokens = parameters.min_tokens.min(most);
            }
        }
        let work = Work::Generate(Box::new(Generate { parameters, policy: policy.clone(), watcher }));
        Ok(Prepared { request: Request { key: RequestKey::of_id(id), prompt, work }, answers })
    }

    /// The tokens of a prompt.
    ///
    /// # Errors
    /// As [`Preparation::prepare`].
    pub fn tokens(&self, session: &Session, prompt: &Prompt) -> Result<Vec<TokenId>> {
        match prompt {
            Prompt::Tokens(tokens) => Ok(tokens.clone()),
            Prompt::Text(text) => session.prompt(text, self.special),
            Prompt::Messages(turns) => match &self.system {
                Some(system) if turns[0].role != "system" => {
                    let first = Message::new("system", system);
                    let turns: Vec<Message> = std::iter::once(first).chain(turns.iter().cloned()).collect();
                    session.chat(&turns)
                }
                _ => session.chat(turns),
            },
        }
    }
}

fn parameters(params: &Params) -> Parameters {
    let default = Parameters::default();
    Parameters {
        temperature: params.temperature,
        top_k: params.top_k,
        top_p: params.top_p,
        min_p: params.min_p,
        repetition_penalty: params.repetition_penalty.unwrap_or(default.repetition_penalty),
        frequency_penalty: params.frequency_penalty.unwrap_or(default.frequency_penalty),
        presence_penalty: params.presence_penalty.unwrap_or(default.presence_penalty),
        logit_bias: params.logit_bias.clone().unwrap_or_default(),
        seed: params.seed.unwrap_or(default.seed),
        stop_tokens: params.stop_token_ids.clone().unwrap_or_default(),
        max_tokens: params.max_tokens,
        min_tokens: params.min_tokens.unwrap_or(default.min_tokens),
        ignore_eos: params.ignore_eos.unwrap_or(default.ignore_eos),
        logprobs: params.logprobs.unwrap_or(0) as u16,
        n: params.n.unwrap_or(1) as u32,
        attention: false,
        raw_events: false,
    }
}
