"""Word vectors beside gensim's: speed and peak memory, or analogies and similarity, on the same token lists.

    python benchmarks/words.py
    python benchmarks/words.py --mode quality --seeds 3

By default classic-books and nltk-prose from ../shared/data, 14.5 million words, 5 epochs, 2 threads, and the settings
of `benchmarking_words.Setting`. Speed: each arm is a process of its own, in turns, the median of three, compiled before
the clock starts; "words/s" is of training alone, "seconds" from token lists to a .vec file. Goals: CBOW 3 times
gensim's words/s and 2.5 times end to end, n-grams twice FastText's. Quality: each arm at the rate that answers the most
analogies with the first seed, and what lies between it and gensim's CBOW; a stopped command goes on.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from hfssl.benchmarking import compare, run_arms, show, write_json
from hfssl.benchmarking_words import RATES, Setting, check_choice, compare_quality, measure_speed
from hfssl.config import parse_config
from hfssl.data.sources import TextArguments
from hfssl.data.word_corpus import WordCorpusArguments, load_word_corpus
from hfssl.errors import exits_on_bad_input
from hfssl.training.ledger import Ledger

DATA = Path("../shared/data")
DUELS = {
    "CBOW": ("hfssl CBOW", "gensim CBOW"),
    "n-grams": ("hfssl + n-grams", "gensim FastText CBOW"),
    "CBOW and skip-gram": ("hfssl CBOW", "gensim skip-gram"),
}


@dataclass
class BenchmarkArguments:
    texts: list[str] = field(
        default_factory=lambda: [str(DATA / "text" / f"{name}.parquet") for name in ("classic-books", "nltk-prose")],
        metadata={"help": "Files or folders of text, or builtin:prose."},
    )
    mode: str = field(default="speed", metadata={"help": "speed or quality."})
    arm: str | None = field(default=None, metadata={"help": "Run this arm alone, in this process, and print JSON."})
    arms: list[str] | None = field(default=None, metadata={"help": "Of quality: these alone."})
    epochs: int = field(default=5, metadata={"help": "Passes over the text."})
    threads: int = field(default=2, metadata={"help": "Of every arm."})
    repeats: int = field(default=3, metadata={"help": "Rounds of speed; the median counts."})
    seeds: int = field(default=3, metadata={"help": "Of quality."})
    analogies: str = field(default=str(DATA / "wordsim/questions-words.txt"), metadata={"help": "Of quality."})
    similarity: str = field(default=str(DATA / "wordsim"), metadata={"help": "Of quality: a folder of pairs."})
    out: str = field(default="out/benchmarks/words", metadata={"help": "The folder to write."})


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(BenchmarkArguments, argv=argv)
    check_choice([args.arm, *(args.arms or [])], args.mode)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    texts = [TextArguments(text_path=path, eval_fraction=0) for path in args.texts]
    read = WordCorpusArguments(min_count=1)
    sentences = [words for text in texts for words in load_word_corpus(text, read).sentences()]
    setting = {"epochs": args.epochs, "threads": args.threads}
    if args.arm:
        print(json.dumps(measure_speed(args.arm, sentences, Setting(**setting), out)))
    elif args.mode == "quality":
        ledger = Ledger(out / "quality.jsonl", settings=setting | {"texts": args.texts})
        rates = {arm: RATES[arm] for arm in args.arms or RATES}
        rows = compare_quality(ledger, sentences, rates, args.seeds, setting, args.analogies, args.similarity)
        write_json(out / "quality.json", rows, **setting, texts=args.texts, seeds=args.seeds)
    else:
        del sentences
        flags = ["--texts", *args.texts, "--epochs", args.epochs, "--threads", args.threads, "--out", out, "--arm"]
        runs = run_arms({arm: [__file__, *flags, arm] for duel in DUELS.values() for arm in duel}, args.repeats)
        rows = []
        for what, duel in DUELS.items():
            rows.append(compare({arm: runs[arm] for arm in duel}, list(runs[duel[0]][0]), f"{what}: "))
            show(rows[-1], what)
        write_json(out / "speed.json", [row for found in rows for row in found], **setting, texts=args.texts)


if __name__ == "__main__":
    main()
