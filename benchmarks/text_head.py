"""Where the head of a language model spends its time: hfssl's loss beside its matrix products alone, and torch's.

    python benchmarks/text_head.py --out out/text_head.json

The head of text_step.py's GPT: 8 x 255 tokens, width 256, 50,257 entries, forward and backward. The three products
(logits, gradient of the hidden states, of the weights) are what no implementation can leave out, in chunks of which
each one's logits lie in the same memory. All cores; the arms take turns. A minute on any CPU.
"""

from dataclasses import dataclass, field

import torch
from torch.nn import functional as F

from hfssl.benchmarking import interleave, print_table, spread, write_json
from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.models.modeling_lm import linear_cross_entropy


@dataclass
class BenchmarkArguments:
    tokens: int = field(default=2040, metadata={"help": "That are predicted."})
    width: int = field(default=256, metadata={"help": "Of the hidden states."})
    vocabulary: int = field(default=50257, metadata={"help": "Entries of the head."})
    chunk: int = field(default=512, metadata={"help": "Tokens at one time, of the bare products."})
    repeats: int = field(default=11, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/text_head.json", metadata={"help": "The JSON file to write."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    torch.manual_seed(0)
    hidden = torch.randn(args.tokens, args.width, requires_grad=True)
    weight = (0.02 * torch.randn(args.vocabulary, args.width)).requires_grad_()
    targets = torch.randint(0, args.vocabulary, (args.tokens,))
    logits = torch.empty(args.chunk, args.vocabulary)

    @torch.no_grad()
    def products():
        grad = torch.zeros_like(weight)
        for rows in hidden.split(args.chunk):
            some = torch.mm(rows, weight.T, out=logits[: len(rows)])
            some @ weight
            grad.addmm_(some.T, rows)

    def learn(loss):
        hidden.grad = weight.grad = None
        loss().backward()

    arms = {
        "the three products": products,
        "hfssl": lambda: learn(lambda: linear_cross_entropy(hidden, weight, None, targets)),
        "torch": lambda: learn(lambda: F.cross_entropy(hidden @ weight.T, targets, reduction="sum")),
    }
    rows = [{"arm": arm, **spread(times)} for arm, times in interleave(arms, args.repeats, warmup=1).items()]
    lines = [[row["arm"], *(f"{row[key]:.3f}" for key in ("median", "min", "max"))] for row in rows]
    print_table(["", "seconds", "least", "most"], lines, "A head's loss, forward and backward")
    write_json(args.out, rows, threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
