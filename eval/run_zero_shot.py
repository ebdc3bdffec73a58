"""How well does a language model know corpora that it never saw? WikiText-2, PTB and LAMBADA, as GPT-2 was asked.

    python eval/run_zero_shot.py --model out/gpt --wikitext2 wikitext2-test.txt
    python eval/run_zero_shot.py --model out/gpt --wikitext2 wiki.test.tokens --ptb ptb.test.txt --lambada lambada.jsonl

Radford et al. 2019, section 3.1: the corpora are made plain text (hfssl/evaluation/zero_shot.py has the rules) and the
log-probability is divided by their own words, line ends counted. Windows overlap: each token but the first ones sees at
least context - stride tokens. The protocol is printed, since it moves the figures. The unigram knows token frequencies.
"""

from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.table import Table

from hfssl.benchmarking import write_json
from hfssl.config import parse_config
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.evaluation.code_report import check_file
from hfssl.evaluation.language import load_language_model
from hfssl.evaluation.zero_shot import read_passages, score_corpus, score_last_words


@dataclass
class ZeroShotArguments:
    model: str = field(metadata={"help": "A folder or Hub id of a causal language model."})
    wikitext2: str | None = field(default=None, metadata={"help": "WikiText-2's test file, words apart by blanks."})
    ptb: str | None = field(default=None, metadata={"help": "The Penn treebank's ptb.test.txt of Mikolov."})
    lambada: str | None = field(default=None, metadata={"help": "LAMBADA's test passages: .jsonl, .parquet or .txt."})
    context: int | None = field(default=None, metadata={"help": "Tokens of a window; by default the model's, or 1024."})
    stride: int | None = field(default=None, metadata={"help": "New tokens of a window; by default half the context."})
    detokenize: bool = field(default=True, metadata={"help": "Make the corpora plain text, as GPT-2's protocol does."})
    batch_size: int = field(default=8, metadata={"help": "Windows at a time."})
    limit: int | None = field(default=None, metadata={"help": "Score the first so many lines or passages alone."})
    out: str | None = field(default=None, metadata={"help": "A JSON file for the figures."})

    def __post_init__(self):
        if not (self.wikitext2 or self.ptb or self.lambada):
            raise InputError("name a corpus: --wikitext2, --ptb or --lambada")
        if any(size is not None and size < 1 for size in (self.context, self.stride, self.batch_size, self.limit)):
            raise InputError("--context, --stride, --batch_size and --limit must be at least 1")


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(ZeroShotArguments, argv=argv)
    if args.out:
        check_file(args.out)
    model, tokenizer, masked = load_language_model(args.model)
    positions = getattr(model.config, "max_position_embeddings", None) or 1024
    context = args.context or min(positions, 1024)
    if masked or context > positions:
        raise InputError(f"{args.model} is no causal model of {context} positions")
    stride, found = args.stride or context // 2, {}
    part = f": the first {args.limit:,} lines or passages alone (--limit)" if args.limit else ""
    columns = ("", "perplexity a word", "a token", "bits a byte", "unigram's, a word", "words", "right")
    table = Table(*columns, title=f"{args.model}, zero-shot{part}", title_justify="left")
    for name, path in (("WikiText-2", args.wikitext2), ("PTB", args.ptb)):
        if path:
            settings = (context, stride, args.batch_size, args.detokenize, args.limit)
            found[name] = score = score_corpus(model, tokenizer, path, name, *settings)
            parts = (score.word_perplexity, score.token_perplexity, score.bits_per_byte, score.unigram)
            table.add_row(name, *(f"{part:,.2f}" for part in parts), f"{score.words:,}")
    if args.lambada:
        passages = read_passages(args.lambada)[: args.limit]
        found["LAMBADA"] = score = score_last_words(model, tokenizer, passages, context, args.batch_size)
        table.add_row("LAMBADA", f"{score.perplexity:,.2f}", *3 * [""], f"{score.passages:,}", f"{score.accuracy:.2%}")
    Console().print(table)
    rules = "detokenised by our rules" if args.detokenize else "not detokenised"
    protocol = f"windows of {context} tokens, stride {stride}, one stream after an end-of-text token; {rules}; "
    protocol += "perplexity per word of the corpus, line ends counted, <unk> read as it stands; of LAMBADA's last word"
    print(f"Protocol: {protocol}, no stop words filtered")
    if args.out:
        rows = [{"corpus": name} | asdict(score) for name, score in found.items()]
        write_json(args.out, rows, model=args.model, protocol=protocol)
    return found


if __name__ == "__main__":
    main()
