"""How well does a language model know a text? Perplexity, bits a byte, right answers; pseudo-perplexity.

    python eval/run_perplexity.py --model out/gpt --eval_text_path held_out.txt
    python eval/run_perplexity.py --model out/bert --text_path corpus.txt --pseudo_blocks 20 --out scores.json

The text is all of --eval_text_path, or the held-out part of --text_path, as the recipes hold it out. Bits a byte can be
compared between tokenizers. A masked model is asked for 15 % of the tokens, hidden as BERT's are by default;
--pseudo_blocks N hides each token of the first N blocks alone (Salazar et al. 2020), one forward pass a token. The
memory is that of one batch. The anchor is a model that knows how frequent each token of this text is, and no more.
"""

import tempfile
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from hfssl.benchmarking import write_json
from hfssl.config import parse_config
from hfssl.data.blocks import CausalCollator
from hfssl.data.masking import MaskingCollator
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.evaluation.language import (
    load_language_model,
    model_blocks,
    pseudo_perplexity,
    score_language,
    unigram_loss,
)


@dataclass
class LanguageArguments:
    model: str = field(metadata={"help": "A folder or Hub id of a causal or masked language model."})
    block_size: int | None = field(default=None, metadata={"help": "Tokens of a block; by default 256 at most."})
    batch_size: int = field(default=8, metadata={"help": "Blocks at a time."})
    limit: int | None = field(default=None, metadata={"help": "Score the first so many blocks alone."})
    pseudo_blocks: int = field(default=0, metadata={"help": "Blocks for the pseudo-perplexity of a masked model."})
    seed: int = field(default=0, metadata={"help": "Of the masks."})
    out: str | None = field(default=None, metadata={"help": "A JSON file for the figures."})

    def __post_init__(self):
        if self.batch_size < 1 or self.pseudo_blocks < 0 or (self.limit is not None and self.limit < 1):
            raise InputError("--batch_size and --limit must be at least 1, --pseudo_blocks at least 0")


@exits_on_bad_input
def main(argv=None):
    args, text = parse_config(LanguageArguments, TextArguments, argv=argv)
    model, tokenizer, masked = load_language_model(args.model)
    if args.pseudo_blocks and not masked:
        raise InputError(f"--pseudo_blocks is for masked models; {args.model} is a {type(model).__name__}")
    with tempfile.TemporaryDirectory() as folder:
        blocks = model_blocks(load_texts(text, "eval"), model, tokenizer, masked, args.block_size, folder)
        collator = MaskingCollator(tokenizer, seed=args.seed, positions=True) if masked else CausalCollator()
        score = score_language(model, blocks, collator, args.batch_size, args.limit)
        counts = blocks.corpus.frequencies(model.config.vocab_size)
        found = {"tokens": score.tokens, "loss": score.loss, "unigram_loss": unigram_loss(counts, counts)}
        found |= {"perplexity": score.perplexity, "accuracy": score.accuracy}
        if not masked:
            found["bits_per_byte"] = score.bits_per_byte(blocks.corpus.tokens_per_byte)
        if args.pseudo_blocks:
            some = [blocks[index]["input_ids"] for index in range(min(args.pseudo_blocks, len(blocks)))]
            specials = tokenizer.all_special_ids
            found["pseudo_perplexity"] = pseudo_perplexity(model, some, tokenizer.mask_token_id, specials)
    table = Table("", "", title=f"{args.model} on {blocks.source}")
    for name, value in found.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.4f}")
    Console().print(table)
    if args.out:
        write_json(args.out, [found], model=args.model, text=blocks.source, block_size=blocks.block_size)
    return found


if __name__ == "__main__":
    main()
