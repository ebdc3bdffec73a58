"""Tokenizers side by side on one text: bytes a token, tokens a word, speed. Fewer tokens for the same text mean that a
model of the same block size sees more of it (Radford et al. 2019, section 2.2, on why bytes need merges).

    python tokenizers_train/compare.py --tokenizers out/bpe-8k openai-community/gpt2 --text_path books.parquet

A tokenizer is a folder (tokenizer.json, or GPT-2's vocab.json and merges.txt) or a Hub id. They are compared on the
part of the text that is held out from training, so a tokenizer trained on the rest has not seen it (`--part train` or
`--part all` choose otherwise). Seconds on a CPU. Expected: the table in tokenizers_train/README.md.
"""

from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hfssl.benchmarking import write_json
from hfssl.config import parse_config
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.tokenization import compare_tokenizers, load_tokenizer


@dataclass
class CompareArguments:
    """What to compare, and where the table goes."""

    tokenizers: list[str] = field(metadata={"help": "Folders or Hub ids."})
    part: str = field(default="eval", metadata={"help": "The part of the text: eval (held out), train or all."})
    max_megabytes: float = field(default=16.0, metadata={"help": "Stop reading the text here (it is kept in memory)."})
    out: str | None = field(default=None, metadata={"help": "A JSON file to write the table to."})


@exits_on_bad_input
def main(argv=None):
    text, args = parse_config(TextArguments, CompareArguments, argv=argv)
    if args.part not in ("eval", "train", "all"):
        raise InputError(f"part must be eval, train or all, not {args.part!r}")
    tokenizers = {name: load_tokenizer(name) for name in args.tokenizers}

    documents, size = [], 0
    for part in ("train", "eval") if args.part == "all" else (args.part,):
        for document in load_texts(text, part):
            documents.append(document)
            size += len(document.encode())
            if size >= args.max_megabytes * 1e6:
                break

    rows = compare_tokenizers(tokenizers, documents)
    about = f"{len(documents):,} documents, {size / 1e6:.2f} MB of {text.text_path} ({args.part})"
    table = Table(*[heading.replace("_", "\n") for heading in rows[0]], title=about)
    for row in rows:
        name = Path(row["name"]).name if Path(row["name"]).is_dir() else row["name"]
        table.add_row(name, *(f"{value:,}" for key, value in row.items() if key != "name"))
    Console().print(table)
    if args.out:
        write_json(args.out, rows, text=about)
    return rows


if __name__ == "__main__":
    main()
