"""What do word vectors know? Analogies, similarity beside people's scores, nearest neighbours, a map.

    hfssl words out/cbow --analogies questions-words.txt --similarity WORDSIM_FOLDER --out out/words
    hfssl words vectors.vec --neighbours king,paris --map map.png
    python eval/run_words.py --model out/cbow --similarity EN-MEN-TR-3k.txt EN-SIMLEX-999.txt

The model is a folder that recipes/pretrain_cbow.py saved, or any file in word2vec's text or binary format, fastText's
.vec or gensim's KeyedVectors. Analogies are Google's (Mikolov et al. 2013) and what is written like them; pairs are
WordSim-353, SimLex-999, MEN and what is written like them. The numbers are gensim's (evaluate_word_analogies,
evaluate_word_pairs), with intervals and, as an anchor, random vectors for the same words. Seconds on one CPU core.
"""

from rich.console import Console

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.word_report import RESULTS, WordReportArguments, evaluate_words, words_tables


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(WordReportArguments, argv=argv)
    result = evaluate_words(args)
    console = Console()
    console.print(words_tables(result, f"Word vectors of {args.model}"))
    if args.map:
        console.print(f"The map is {args.map}", highlight=False)
    if args.out:
        console.print(f"The results are in {args.out}/{RESULTS}", highlight=False)
    return result


if __name__ == "__main__":
    main()
