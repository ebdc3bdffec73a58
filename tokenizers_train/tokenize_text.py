"""Tokenise a text once, into memory-mapped shards that any number of training runs read.

    python tokenizers_train/tokenize_text.py --text_path books.parquet --tokenizer out/bpe --output_dir out/corpus
    hfssl pretrain gpt --config recipes/gpt_small.yaml --corpus out/corpus --output_dir out/gpt

A large text is made in parts, by a cluster's job array for instance; the last to finish joins them:

    python tokenizers_train/tokenize_text.py ... --part $SLURM_ARRAY_TASK_ID --parts 16

An interrupted call, repeated, goes on where it was. More in tokenizers_train/README.md.
"""

from dataclasses import dataclass, field
from pathlib import Path

from hfssl.config import parse_config
from hfssl.data.corpus import build_corpus, tokenizer_hash
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.tokenization import load_tokenizer, save_tokenizer


@dataclass
class TokenizeArguments:
    """What tokenises the text, and where the corpus goes."""

    tokenizer: str = field(metadata={"help": "A tokenizer's folder or Hub id."})
    output_dir: str = field(metadata={"help": "Gets the folders tokenizer, train and eval."})
    part: int | None = field(default=None, metadata={"help": "Make only this part of the shards, from 0 on."})
    parts: int = field(default=1, metadata={"help": "Into how many parts the work is divided."})

    def __post_init__(self):
        if self.parts < 1 or (self.part is not None and not 0 <= self.part < self.parts):
            raise InputError(f"part must lie in 0 to {self.parts - 1}, not {self.part}")
        if self.part is None and self.parts > 1:
            raise InputError("--parts needs --part: which of them to make")


@exits_on_bad_input
def main(argv=None):
    text, args = parse_config(TextArguments, TokenizeArguments, argv=argv)
    tokenizer, folder = load_tokenizer(args.tokenizer), Path(args.output_dir).expanduser()
    end = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
    if end is None:
        raise InputError(f"the tokenizer {args.tokenizer} has neither an end-of-text nor a [SEP] token")
    for split in ("train", "eval"):
        corpus = build_corpus(load_texts(text, split), tokenizer, folder / split, end, args.part, args.parts)
        if corpus is not None:
            counts = corpus.manifest
            print(f"{split}: {counts['tokens']:,} tokens of {counts['documents']:,} documents in {folder / split}")
    saved = str(folder / "tokenizer")
    if args.part in (None, 0):
        there = Path(saved).exists() and tokenizer_hash(load_tokenizer(saved)) == tokenizer_hash(tokenizer)
        if not there:  # or it is another one, with which the corpora were made before
            save_tokenizer(tokenizer, saved, overwrite=True)


if __name__ == "__main__":
    main()
