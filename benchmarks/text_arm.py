"""One arm of text_step.py and gpu_text.py, in a process of its own: trains some steps and prints JSON.

    python benchmarks/text_arm.py --model bert --arm hfssl

hfssl's model in its PretrainingTrainer, or the stock model in transformers' Trainer as run_clm and run_mlm feed it. The
data is made up and the same for both. A step is from fetching its data to its update; the memory is the process's peak,
on a GPU of its tensors; the loss is of one batch before training, with the same masks for both.
"""

import json
import tempfile
from dataclasses import dataclass, field

import torch
from transformers import BertConfig, GPT2Config, set_seed

from hfssl.benchmarking import median, numbered_tokenizer, peak_rss, step_seconds, stock_trainer, token_blocks
from hfssl.config import parse_config
from hfssl.data.blocks import CausalCollator
from hfssl.data.masking import MaskingCollator
from hfssl.errors import exits_on_bad_input
from hfssl.models.modeling_lm import language_model
from hfssl.training import PretrainingArguments, PretrainingTrainer
from hfssl.training.throughput import training_flops_per_token

MODELS = {  # with the tokens of a block and the blocks of a batch
    "bert": (BertConfig(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024), 128, 32),
    "gpt": (GPT2Config(n_embd=256, n_layer=4, n_head=4), 256, 8),
    "gpt2": (GPT2Config(vocab_size=50304), 1024, 32),
    "bert-base-128": (BertConfig(), 128, 256),
    "bert-base-512": (BertConfig(), 512, 64),
    "toy-bert": (BertConfig(vocab_size=512, hidden_size=64, num_hidden_layers=1, num_attention_heads=2), 32, 4),
    "toy-gpt": (GPT2Config(vocab_size=512, n_embd=64, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0), 32, 4),
}


@dataclass
class ArmArguments:
    model: str = field(metadata={"help": "What to train.", "choices": list(MODELS)})
    arm: str = field(metadata={"help": "Whose.", "choices": ["hfssl", "stock"]})
    steps: int = field(default=6, metadata={"help": "Steps that count, after three that do not."})
    every: int = field(default=1, metadata={"help": "Steps between looks at the clock, which wait for a GPU."})
    bf16: bool = False
    torch_compile: bool = False


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(ArmArguments, argv=argv)
    (config, length, size), warmup = MODELS[args.model], 3
    masked, cuda = config.model_type == "bert", torch.cuda.is_available()
    base = 0 if cuda else peak_rss()
    blocks = token_blocks((args.steps + warmup) * size, length, config.vocab_size, lowest=5)
    tokenizer = numbered_tokenizer(config.vocab_size)
    collator = MaskingCollator(tokenizer, positions=args.arm == "hfssl") if masked else CausalCollator()
    data = [{"input_ids": row, "index": index} for index, row in enumerate(blocks)]
    set_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        settings = {"output_dir": folder, "per_device_train_batch_size": size, "max_steps": args.steps + warmup}
        settings |= {"bf16": args.bf16, "torch_compile": args.torch_compile, "save_strategy": "no"}
        if args.arm == "hfssl":
            arguments = PretrainingArguments(**settings)
            trainer = PretrainingTrainer(language_model(config), arguments, data, data_collator=collator)
        else:
            trainer = stock_trainer(config, blocks, tokenizer, **settings)
        with torch.no_grad():
            batch = {name: value.to(trainer.args.device) for name, value in collator(data[:2]).items()}
            loss = float(trainer.model.eval()(**batch).loss)
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        seconds = step_seconds(trainer, warmup, args.every)
    memory = torch.cuda.max_memory_allocated() if cuda else peak_rss()
    # The same for both arms: what the loss needs, though stock BERT's head also reads the tokens not to be predicted.
    flops = training_flops_per_token(trainer.model, length, round(0.15 * length) / length if masked else 1)
    found = {"seconds/step": median(seconds), "memory MB": memory / 1e6, "without imports MB": (memory - base) / 1e6}
    print(json.dumps(found | {"loss": loss, "flops": flops, "tokens/s": [size * length / each for each in seconds]}))


if __name__ == "__main__":
    main()
