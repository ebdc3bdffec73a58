"""Sample-and-rank with N = 20 as one batch, beside twenty single calls and transformers' generate on 20 copies.

    python benchmarks/generate.py
    python benchmarks/generate.py --prompt_tokens 256 --repeats 9 --out out/generate.json

A GPT-2 of 4 layers and 256 dimensions with random weights and no end token, so that every reply has all its tokens.
The single calls draw one reply each and score it as the batch does; generate scores none. The batch reads the prompt
once. Goal: at least 4 times as fast as the single calls. Expected: 5 to 6 times on 2 cores; half a minute.
"""

from dataclasses import dataclass, field

import torch
from transformers import GPT2Config, GPT2LMHeadModel, set_seed

from hfssl.benchmarking import figure, interleave, numbered_tokenizer, print_table, spread, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.generation import sample_and_rank, sequence_scores

VOCABULARY, TEMPERATURE = 8192, 0.88


@dataclass
class BenchmarkArguments:
    n: int = field(default=20, metadata={"help": "Replies."})
    prompt_tokens: int = field(default=64, metadata={"help": "Of the conversation so far."})
    new_tokens: int = field(default=32, metadata={"help": "Of each reply."})
    layers: int = field(default=4, metadata={"help": "Of the model."})
    width: int = field(default=256, metadata={"help": "Of the model."})
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/generate.json", metadata={"help": "The JSON file to write."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    set_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_layer=args.layers, n_embd=args.width, n_head=4, bos_token_id=None, eos_token_id=None,
        n_positions=args.prompt_tokens + args.new_tokens,
    )  # fmt: skip
    model, tokenizer = GPT2LMHeadModel(config).eval(), numbered_tokenizer(VOCABULARY)
    prompt, found = torch.randint(5, VOCABULARY, (args.prompt_tokens,)).tolist(), {}

    def reply(count, seed):
        return sample_and_rank(model, tokenizer, prompt, count, TEMPERATURE, max_new_tokens=args.new_tokens, seed=seed)

    def stock():
        ids = torch.tensor([prompt])
        model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=TEMPERATURE, top_k=0,
            num_return_sequences=args.n, max_new_tokens=args.new_tokens, pad_token_id=0,
        )  # fmt: skip

    arms = {
        "one batch": lambda: found.update(batch=reply(args.n, 0).tries),
        "single calls": lambda: found.update(single=[reply(1, seed).best for seed in range(args.n)]),
        "generate": stock,
    }
    seconds = {arm: spread(times) for arm, times in interleave(arms, args.repeats, warmup=1).items()}
    for tries in found.values():
        again, _ = sequence_scores(model, [prompt + one.ids for one in tries], [len(prompt)] * args.n)
        assert torch.allclose(again, torch.tensor([one.log_p for one in tries]).double(), atol=1e-2), "wrong scores"
    ours = seconds["one batch"]["median"]
    rows = [{"arm": arm, "seconds": times, "ratio": times["median"] / ours} for arm, times in seconds.items()]
    lines = [[row["arm"], figure(row["seconds"]), f"{row['ratio']:.3g}"] for row in rows]
    print_table(["", "seconds", "times one batch"], lines, f"{args.n} replies of {args.new_tokens} tokens")
    write_json(args.out, rows, settings=vars(args), threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
