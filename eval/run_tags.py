"""Are the codes of words parts of speech? Many-to-one, V-measure and the rest of a tagger's codes on tagged text.

    hfssl tags out/tagger-brown --tagged_path BROWN
    python eval/run_tags.py --model out/tagger-brown --tagged_path BROWN --out tags.json

The model is one that recipes/pretrain_tagger.py saved; the text is CoNLL-U, or word/tag as the Brown corpus is written,
whose tags are cut to their first part (hfssl/data/word_windows.py). Each word has the code that the model finds
likeliest. As in the literature the text may be that which the codes were learned on, whose tags the model never saw.
Beside them the most frequent words as codes, a random init, and one code for all. Expected: see
eval/README.md. A minute for Brown.
"""

from rich.console import Console

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.code_report import codes_table
from hfssl.evaluation.tag_report import TagArguments, score_tags


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(TagArguments, argv=argv)
    found = score_tags(args)
    Console().print(codes_table(found, f"Codes of {args.model} and the tags of {args.tagged_path}"))
    return found


if __name__ == "__main__":
    main()
