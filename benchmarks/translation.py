"""Translation by a separator language model beside a stock encoder-decoder: BLEU for the same weights, data and time.

    python benchmarks/translation.py --data multi30k --source_column en --target_column de --minutes 20 --out mt.json

The arms (hfssl/benchmarking_translation.py): our GPT-2 on `source <sep> target`, loss on the target, and transformers'
MarianMTModel of as many trained weights; one joint BPE, the same batches, optimizer and schedule. The minutes are of
training, on a CPU of the main thread's own work, so that other programs disturb nothing. Both decode by beam search.
BLEU is sacrebleu's on the test part, with the interval of 95 % and that of the difference, by bootstrap over sentences.
It takes twice --minutes and some for decoding: eval/README.md has the figures of 20.
"""

from dataclasses import asdict, dataclass, field

from hfssl.benchmarking import print_table, write_json
from hfssl.benchmarking_translation import ARMS, Shape, train_arm
from hfssl.config import parse_config
from hfssl.data.conditional import PairArguments, load_pair_data
from hfssl.data.pair_files import Columns, read_pairs
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.evaluation.code_report import check_file
from hfssl.evaluation.translation import bleu_difference, score_translations
from hfssl.generation import translate


@dataclass
class TranslationBenchmarkArguments:
    data: str = field(default="builtin:toypairs/translation", metadata={"help": "A folder with train and test tables."})
    source_column: str = field(default="source", metadata={"help": "The column of the sources."})
    target_column: str = field(default="target", metadata={"help": "The column of the targets."})
    minutes: float = field(default=20.0, metadata={"help": "Of training, for each arm."})
    vocab_size: int = field(default=8192, metadata={"help": "Entries of the joint BPE."})
    width: int = field(default=256, metadata={"help": "Of both models."})
    layers: int = field(default=4, metadata={"help": "Of the separator model; the other has half on each side."})
    heads: int = field(default=4, metadata={"help": "Of both models."})
    batch_size: int = field(default=64, metadata={"help": "Pairs of a step."})
    learning_rates: list[float] = field(
        default_factory=lambda: [1e-3, 1e-3], metadata={"help": "The highest of the schedule, of each arm."}
    )
    num_beams: int = field(default=5, metadata={"help": "Of the decoding."})
    seed: int = field(default=0, metadata={"help": "Of the weights, the order and the bootstrap."})
    out: str | None = field(default=None, metadata={"help": "A JSON file for the figures and the translations."})

    def __post_init__(self):
        if self.minutes <= 0 or min(self.num_beams, self.batch_size) < 1 or len(self.learning_rates) != len(ARMS):
            raise InputError("--minutes and --batch_size must be over 0, and --learning_rates two")


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(TranslationBenchmarkArguments, argv=argv)
    if args.out:
        check_file(args.out)
    columns = {"source_column": args.source_column, "target_column": args.target_column}
    test = read_pairs(args.data, "test", Columns(*columns.values()), needed=("source", "target"))
    pairs = PairArguments("translation", [args.data], vocab_size=args.vocab_size, **columns)
    data = load_pair_data(pairs)
    tokenizer, layout = data.tokenizer, data.layout
    specials = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(layout.separator)
    shape = Shape(len(tokenizer), args.width, args.layers, args.heads, pairs.max_length, *specials)
    sources, references = [row["source"] for row in test], [row["target"] for row in test]
    said, rows, lines = {}, [], []
    for arm, rate in zip(ARMS, args.learning_rates, strict=True):
        model, told = train_arm(arm, shape, data.train, 60 * args.minutes, args.batch_size, rate, args.seed)
        said[arm] = translate(model, tokenizer, layout if arm == ARMS[0] else None, sources, args.num_beams)
        score = score_translations(said[arm], references, seed=args.seed)
        rows.append({"arm": arm} | told | score)
        bleu = f"{score['BLEU']:.2f} ({score['low']:.2f} to {score['high']:.2f})"
        counts = (f"{told[name]:,}" for name in ("weights", "steps", "pairs"))
        lines.append([arm, bleu, f"{score['chrF']:.1f}", *counts, f"{told['seconds'] / 60:.1f}"])
    print_table(["", "BLEU", "chrF", "weights", "steps", "pairs", "minutes"], lines, f"{args.data}, {len(test):,} rows")
    difference, low, high = bleu_difference(said[ARMS[0]], said[ARMS[1]], references, seed=args.seed)
    print(f"{ARMS[0]} less {ARMS[1]}: {difference:+.2f} BLEU ({low:+.2f} to {high:+.2f}, paired)")
    print(f"{rows[0]['signatures']['BLEU']}; beams {args.num_beams}")
    if args.out:
        write_json(args.out, rows, settings=asdict(args), difference=[difference, low, high], translations=said)
    return rows


if __name__ == "__main__":
    main()
