"""Small models with random weights, and what they write by the slowest way there is. Used by tests/generation."""

import functools

import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from hfssl.models.modeling_lm import GPT2ForTraining
from hfssl.tokenization import train_bpe

TEXT = "the cat sat on the mat and the dog sat on the cat, a man in a red hat goes to the house. "
POSITIONS = 40
SPECIALS = ["<sep>", "<turn>", "<xIntent>", "<xNeed>", "<de>", "<fr>"]


@functools.cache
def make_tokenizer():
    return train_bpe([TEXT * 20], 300, special_tokens=SPECIALS, min_frequency=1, show_progress=False)


def _settings(tokenizer):
    end = tokenizer.eos_token_id
    return {"vocab_size": len(tokenizer), "bos_token_id": end, "eos_token_id": end}


def make_model(kind="gpt2", **changes):
    """Weights are large, so that a model has clear preferences, which hang on all that it reads."""
    torch.manual_seed(3)
    own = _settings(make_tokenizer()) | changes
    decoder = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.5}
    gpt = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": POSITIONS, "initializer_range": 0.5}
    both = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "init_std": 0.5,
            "max_position_embeddings": POSITIONS, "pad_token_id": 5, "decoder_start_token_id": 0}  # fmt: skip
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "initializer_factor": 2.0,
          "pad_token_id": 0, "decoder_start_token_id": 0}  # fmt: skip
    model = {
        "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**gpt | own)),
        "training": lambda: GPT2ForTraining(GPT2Config(**gpt | own)),
        "llama": lambda: LlamaForCausalLM(
            LlamaConfig(intermediate_size=16, max_position_embeddings=POSITIONS, **decoder | own)
        ),
        "bloom": lambda: BloomForCausalLM(
            BloomConfig(n_layer=2, n_head=2, hidden_size=16, initializer_range=0.5, **own)
        ),
        "bart": lambda: BartForConditionalGeneration(BartConfig(**both | own | {"forced_eos_token_id": None})),
        "t5": lambda: T5ForConditionalGeneration(T5Config(**t5 | own)),
    }[kind]()
    return model.eval()


CAUSAL, SEQ2SEQ = ("gpt2", "training", "llama", "bloom"), ("bart", "t5")


@torch.no_grad()
def logits_of(model, prompt, written):
    """The whole model on the whole text, without a cache: float32 logits (V,) of what comes next."""
    if model.config.is_encoder_decoder:
        start = [model.config.decoder_start_token_id]
        out = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([start + written]), use_cache=False)
    else:
        out = model(torch.tensor([prompt + written]), use_cache=False)
    return out.logits[0, -1]


def slow_greedy(model, prompt, count, end=0):
    written = []
    while len(written) < count and (not written or written[-1] != end):
        written.append(int(logits_of(model, prompt, written).argmax()))
    return written


def slow_log_p(model, prompt, written):
    """log p of a text, one whole forward pass a token, float64."""
    values = [logits_of(model, prompt, written[:at]).double().log_softmax(-1)[t] for at, t in enumerate(written)]
    return float(sum(values))


def constant_model(log_p, **changes):
    """A GPT-2 that gives the same log p (V,) to what comes next, whatever came before."""
    settings = {"n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 8, "bos_token_id": None, "eos_token_id": None}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(log_p), **settings | changes)).eval()
    with torch.no_grad():
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(torch.tensor([1.0, 0, 0, 0]))
        model.lm_head.weight[:, 0] = torch.as_tensor(log_p)
    return model
