"""GPT: left-to-right language modelling (Radford et al. 2018, 2019).

    accelerate launch recipes/pretrain_gpt.py --config recipes/gpt_small.yaml

The model is a stock GPT2LMHeadModel, or by `model.architecture: llama` a modern block (RoPE, RMSNorm, SwiGLU); what is
saved loads with AutoModelForCausalLM. Without --tokenizer a byte-level BPE of --vocab_size entries is trained on the
text first. `--positions sinusoidal` (Vaswani et al. 2017) or `dyadic` (the lecture) is a fixed table where GPT-2
learns one. Expected: see the table in recipes/README.md, which names the hardware, the time and the loss of each YAML.
"""

from dataclasses import dataclass, field

from transformers import GPT2Config, LlamaConfig, set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.blocks import CausalCollator, CorpusArguments, fit_vocabulary, load_text_data
from hfssl.data.sources import TextArguments
from hfssl.errors import exits_on_bad_input
from hfssl.models.modeling_lm import language_model
from hfssl.training import PretrainingArguments, PretrainingTrainer, run


@dataclass
class PositionArguments:
    positions: str = field(default="learned", metadata={"help": "GPT-2's positions: learned, sinusoidal or dyadic."})


@exits_on_bad_input
def main(argv=None):
    config, positions, text, corpus, args = parse_config(
        PositionArguments,
        TextArguments,
        CorpusArguments,
        PretrainingArguments,
        model={"gpt2": GPT2Config, "llama": LlamaConfig},
        fixed={"vocab_size": "--vocab_size"},
        argv=argv,
    )
    data = load_text_data(text, corpus, style="gpt2")
    fit_vocabulary(config, data.tokenizer, corpus.block_size)
    if positions.positions != "learned":
        config.position_table = positions.positions

    set_seed(args.seed)
    trainer = PretrainingTrainer(
        model=build_model(language_model, config),
        args=args,
        train_dataset=data.train,
        eval_dataset=data.eval,
        data_collator=CausalCollator(),
        processing_class=data.tokenizer,
    )
    return run(trainer)


if __name__ == "__main__":
    main()
