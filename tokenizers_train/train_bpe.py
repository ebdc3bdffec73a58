"""Byte-level BPE: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units"; on bytes and
with GPT-2's word pattern, Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.

    python tokenizers_train/train_bpe.py --config tokenizers_train/bpe_prose_4k.yaml
    python tokenizers_train/train_bpe.py --text_path books.parquet --vocab_size 16384 --output_dir out/bpe-16k

Two seconds on two CPU cores for builtin:prose, half a minute for 60 MB. Expected: with bpe_prose_4k.yaml about 3.5
bytes a token on the held-out documents, each of which decodes to itself; the folder loads with AutoTokenizer. More in
tokenizers_train/README.md.
"""

import itertools

from rich.console import Console

from hfssl.config import parse_config
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import exits_on_bad_input
from hfssl.tokenization import TokenizerArguments, check_output, compare_tokenizers, save_tokenizer, train_bpe


@exits_on_bad_input
def main(argv=None):
    text, args = parse_config(TextArguments, TokenizerArguments, argv=argv)
    check_output(args.output_dir, args.overwrite)

    tokenizer = train_bpe(
        load_texts(text, "train"),
        args.vocab_size,
        args.style,
        special_tokens=args.special_tokens,
        min_frequency=args.min_frequency,
        model_max_length=args.model_max_length,
    )
    save_tokenizer(tokenizer, args.output_dir, args.overwrite)

    held_out = list(itertools.islice(load_texts(text, "eval"), 1000))
    [row] = compare_tokenizers({args.output_dir: tokenizer}, held_out)
    Console().print(
        f"Wrote {args.output_dir}: {row['vocab_size']:,} entries. On {len(held_out)} held-out documents: "
        f"{row['bytes_per_token']:.2f} bytes a token, {row['tokens_per_word']:.2f} tokens a word, "
        f"{row['lossless']:.0%} of the documents decode to themselves.",
        highlight=False,
    )


if __name__ == "__main__":
    main()
