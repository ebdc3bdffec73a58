"""Does a model talk? Perplexity of people's replies, hits@1/20, variety by each way of decoding, and sheets for raters.

    python eval/run_dialogue.py --model out/chat
    python eval/run_dialogue.py --model out/chat --data topicalchat-valid_rare.parquet --ssa_out out/ssa
    python eval/run_dialogue.py --ssa_in out/ssa/ann.csv out/ssa/bob.csv

hits@1/20: how often people's reply is likelier, by log p a token, than 19 replies of other conversations (chance: 5 %).
Replies are greedy, sampled (T = 1), and by Meena's sample-and-rank (Adiwardana et al. 2020: of N at T = .88 the
likeliest a token); distinct-n is of Li et al. 2016; generic replies are listed in hfssl/evaluation/dialogue.py. The
sheet hides who replied: raters fill in copies of it, 1 or 0; most of them decide, and what is not sensible is not
specific. Agreement: pairs of raters, Krippendorff's alpha. Intervals: 95 %, bootstrap.
"""

from rich.console import Console
from rich.table import Table

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.dialogue_report import DialogueArguments, score_dialogue, score_sheets

PERCENT = ("distinct-1", "distinct-2", "generic", "top reply")


def show_ratings(found):
    table = Table("", "sensible, %", "specific, %", "SSA, %", "replies", title="Most raters say", title_justify="left")
    for name, score in found["systems"].items():
        parts = [f"{score[part]:.1f}" for part in ("sensibleness", "specificity", "SSA")]
        table.add_row(name, *parts, str(score["replies"]))
    Console().print(table)
    for label in ("sensible", "specific"):
        told = found[label]
        print(f"{label}: pairs of raters agree in {100 * told['agreement']:.1f} %; alpha {told['alpha']:.2f}")


def limits(told, times, digits):
    """The interval, of which there is none where one conversation is drawn again and again."""
    if told["groups"] == 1:
        return ", no interval of one conversation"
    return f" ({times * told['low']:.{digits}f} to {times * told['high']:.{digits}f})"


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(DialogueArguments, argv=argv)
    if args.ssa_in:
        found = score_sheets(args.ssa_in)
        show_ratings(found)
        return found
    found = score_dialogue(args)
    told, title = found["perplexity"], f"{args.model} on {args.data}"
    of = "1 reply" if told["rows"] == 1 else f"{told['rows']:,} replies"
    print(f"perplexity of {of}, ends counted: {told['perplexity']:.2f}{limits(told, 1, 2)}")
    for name in ("hits@1/20", "TF-IDF hits@1/20"):
        print(f"{name}: {100 * found[name]['score']:.1f} %{limits(found[name], 100, 1)}")
    Console().print(f"{title}: %, words a reply, nats a token", highlight=False, soft_wrap=True)
    table = Table()
    table.add_column("", no_wrap=True)
    for name in (*PERCENT, "words", "log p"):
        table.add_column(name.replace("top ", "top\n"), justify="right", no_wrap=True)
    for name, score in found["replies"].items():
        parts = [f"{100 * score[part]:.1f}" if score[part] is not None else "-" for part in PERCENT]
        table.add_row(name, *parts, f"{score['words']:.1f}", f"{score['log p']:.3f}")
    Console().print(table)
    if args.ssa_out:
        print(f"wrote {args.ssa_out}/sheet.csv: give each rater a copy, and keep key.json to yourself")
    return found


if __name__ == "__main__":
    main()
