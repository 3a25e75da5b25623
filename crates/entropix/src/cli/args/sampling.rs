use super::values;
use clap::Args;
use entropix::jobs::params::Params;

/// How tokens are chosen. A request's own parameters win over these, and these over the policy's.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampling")]
pub(crate) struct SamplingArgs {
    /// Who decides each token: a built-in policy (see `entropix policy list`) or a TOML file [default: attic].
    #[arg(long, value_name = "NAME|FILE", aliases = ["sampler", "sampler-config"])]
    pub policy: Option<String>,
    /// Change one parameter of the policy; repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// The model's calibration (see calibrate), for a policy whose thresholds are quantiles; those that come along are
    /// found by the model's hash.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<std::path::PathBuf>,
    /// Most tokens of an answer, e.g. 256 or 2k [default: what the context holds].
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true, value_parser = values::size, aliases = ["n-predict", "predict"])]
    pub max_tokens: Option<usize>,
    /// No end before that many tokens.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::size)]
    pub min_tokens: Option<usize>,
    /// 0 takes the most probable token.
    #[arg(long, value_name = "T", allow_negative_numbers = true, value_parser = values::temperature, alias = "temp")]
    pub temperature: Option<f32>,
    /// Only the K most probable tokens; 0 keeps all.
    #[arg(long, value_name = "K", value_parser = values::top_k, allow_hyphen_values = true)]
    pub top_k: Option<u32>,
    /// Only the smallest set of tokens with mass P; 1 keeps all.
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = values::top_p)]
    pub top_p: Option<f32>,
    /// Only tokens at least P times as probable as the best; 0 keeps all.
    #[arg(long, value_name = "P", allow_negative_numbers = true, value_parser = values::min_p)]
    pub min_p: Option<f32>,
    /// Over prompt and answer; 1 changes nothing.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = values::repetition_penalty, alias = "repeat-penalty")]
    pub repetition_penalty: Option<f32>,
    /// Nats for each time a token stands in the answer.
    #[arg(long, value_name = "X", value_parser = values::frequency_penalty, allow_hyphen_values = true)]
    pub frequency_penalty: Option<f32>,
    /// Nats once a token stands in the answer.
    #[arg(long, value_name = "X", value_parser = values::presence_penalty, allow_hyphen_values = true)]
    pub presence_penalty: Option<f32>,
    /// Add nats to a token's logit; repeatable.
    #[arg(long, value_name = "TOKEN=NATS", value_parser = values::logit_bias)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Key of the random numbers; the same seed gives the same answers [default: 0].
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = values::seed)]
    pub seed: Option<u64>,
    /// A text that ends the answer; repeatable.
    #[arg(long, value_name = "TEXT", value_parser = values::stop, allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Tokens that end the answer, with commas between.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    pub stop_token_ids: Vec<u32>,
    /// Pass over the model's own end tokens.
    #[arg(long)]
    pub ignore_eos: bool,
    /// Report the K most probable tokens beside each chosen one.
    #[arg(long, value_name = "K", allow_negative_numbers = true, value_parser = values::logprobs)]
    pub logprobs: Option<usize>,
}

impl SamplingArgs {
    /// What the flags say, in the words of a request.
    pub(crate) fn params(&self) -> Result<Params, String> {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let mut bias = self.logit_bias.clone();
        bias.sort_by_key(|&(token, _)| token);
        if let Some(pair) = bias.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(format!("--logit-bias names token {} twice", pair[0].0));
        }
        Ok(Params {
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            logit_bias: (!bias.is_empty()).then_some(bias),
            seed: self.seed,
            stop: some(&self.stop),
            stop_token_ids: (!self.stop_token_ids.is_empty()).then(|| self.stop_token_ids.clone()),
            ignore_eos: self.ignore_eos.then_some(true),
            logprobs: self.logprobs,
            n: None,
        })
    }
}
