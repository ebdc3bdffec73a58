"""How good are a model's translations? BLEU with its signature and an interval, and chrF, by sacrebleu.

    python eval/run_translation.py --model out/mt --num_beams 5
    python eval/run_translation.py --model out/mt --data multi30k --source_column en --target_column de --out mt.json

The model is one that recipes/pretrain_conditional.py made with `task: translation`, or an encoder-decoder. BLEU is of
plain text, tokenised by sacrebleu as the signature says (Post 2018), also in lower case, as Multi30k's is often given;
the interval is of 95 %, by bootstrap over sentences (Koehn 2004). Beside it the source itself, untranslated.
"""

from dataclasses import asdict, dataclass, field

from rich.console import Console
from rich.table import Table

from hfssl.benchmarking import write_json
from hfssl.config import parse_config
from hfssl.data.pair_files import Columns, read_pairs
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.evaluation.code_report import check_file
from hfssl.evaluation.translation import score_translations
from hfssl.generation import load_generator, load_layout, translate


@dataclass
class TranslationArguments:
    model: str = field(metadata={"help": "A directory or a Hub id."})
    data: str = field(
        default="builtin:toypairs/translation", metadata={"help": "A table, or a folder with that split."}
    )
    split: str = field(default="test", metadata={"help": "Of a folder or of builtin data: train, validation or test."})
    source_column: str = field(default="source", metadata={"help": "The column of the sources."})
    target_column: str = field(default="target", metadata={"help": "The column of the references."})
    language: str | None = field(default=None, metadata={"help": "The target's tag, of a model that has several."})
    num_beams: int = field(default=5, metadata={"help": "1 is greedy."})
    length_penalty: float = field(default=1.0, metadata={"help": "Beams are compared by log p / length ** this."})
    batch_size: int = field(default=32, metadata={"help": "Sentences at a time."})
    limit: int | None = field(default=None, metadata={"help": "Translate the first so many alone."})
    seed: int = field(default=0, metadata={"help": "Of the interval."})
    out: str | None = field(default=None, metadata={"help": "A JSON file for the figures and the translations."})

    def __post_init__(self):
        if self.num_beams < 1 or self.batch_size < 1 or (self.limit is not None and self.limit < 1):
            raise InputError("--num_beams, --batch_size and --limit must be at least 1")


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(TranslationArguments, argv=argv)
    if args.out:
        check_file(args.out)
    layout = load_layout(args.model, ("translation",))
    model, tokenizer = load_generator(args.model)
    columns = Columns(args.source_column, args.target_column)
    everything = read_pairs(args.data, args.split, columns, needed=("source", "target"))
    rows = everything[: args.limit]
    sources, references = [row["source"] for row in rows], [row["target"] for row in rows]
    tag = {"language": args.language} if args.language else {}
    said = translate(model, tokenizer, layout, sources, args.num_beams, args.length_penalty, args.batch_size, **tag)
    found, copied = (score_translations(texts, references, seed=args.seed) for texts in (said, sources))
    part = f"the first {len(rows):,} of {len(everything):,} rows (--limit)" if args.limit else f"{len(rows):,} rows"
    table = Table("", "score", "the source itself", title=f"{args.model} on {args.data}, {args.split}: {part}")
    score = f"{found['BLEU']:.2f} ({found['low']:.2f} to {found['high']:.2f})"
    table.add_row("BLEU (95 % interval)", score, f"{copied['BLEU']:.2f}")
    for name in ("BLEU, lower case", "chrF", "length ratio"):
        table.add_row(name, f"{found[name]:.2f}", f"{copied[name]:.2f}")
    Console().print(table)
    for name, signature in found["signatures"].items():
        print(f"{name}: {signature}")
    if args.out:
        texts = zip(sources, references, said, strict=True)
        lines = [{"source": source, "reference": truth, "translation": text} for source, truth, text in texts]
        write_json(args.out, lines, settings=asdict(args), scores=found, source_itself=copied)
    return found


if __name__ == "__main__":
    main()
