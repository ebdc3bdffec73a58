"""`train_bpe` beside a direct `tokenizers` script on the same text: seconds, MB/s, and whether the merges are equal.

    python benchmarks/tokenizer.py
    python benchmarks/tokenizer.py --text_path books.parquet --vocab_size 16384 --repeats 5 --out out/tokenizer.json

The arms take turns in one process; the ratio is that of the medians, and the goal is at most 1.1. Expected: below 1,
since train_bpe hands long documents to the trainer's threads in pieces. The text is in memory before the clock starts.
"""

from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from hfssl.benchmarking import interleave, median, peak_rss, write_json
from hfssl.config import parse_config
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import exits_on_bad_input
from hfssl.tokenization import train_bpe


@dataclass
class BenchmarkArguments:
    """What is measured."""

    vocab_size: int = field(default=8192, metadata={"help": "Entries of the vocabulary."})
    repeats: int = field(default=5, metadata={"help": "Rounds; the median counts."})
    out: str = field(default="out/benchmarks/tokenizer.json", metadata={"help": "The JSON file to write."})


def direct(texts, vocab_size):
    """What one would write with the library alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


@exits_on_bad_input
def main(argv=None):
    text, args = parse_config(TextArguments, BenchmarkArguments, argv=argv)
    texts = list(load_texts(text, "train"))
    megabytes = sum(len(document.encode()) for document in texts) / 1e6
    made = {}
    arms = {
        "hfssl.train_bpe": lambda: made.update(ours=train_bpe(texts, args.vocab_size, show_progress=False)),
        "tokenizers alone": lambda: made.update(theirs=direct(texts, args.vocab_size)),
    }
    seconds = interleave(arms, args.repeats)
    equal = made["ours"].get_vocab() == made["theirs"].get_vocab()
    baseline = median(seconds["tokenizers alone"])

    table = Table("arm", "seconds", "MB/s", "ratio", title=f"BPE of {args.vocab_size:,} on {megabytes:.1f} MB")
    rows = []
    for name, times in seconds.items():
        middle = median(times)
        rows.append({"arm": name, "seconds": times, "mb_per_second": megabytes / middle, "ratio": middle / baseline})
        table.add_row(name, f"{middle:.2f}", f"{megabytes / middle:.2f}", f"{middle / baseline:.2f}")
    Console().print(table, f"Equal vocabularies: {equal}. Peak memory of the process: {peak_rss() / 1e9:.2f} GB.")
    write_json(args.out, rows, text=text.text_path, vocab_size=args.vocab_size, equal=equal, peak_rss=peak_rss())
    return rows


if __name__ == "__main__":
    main()
