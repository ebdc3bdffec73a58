"""Does a blank language model beat a left-to-right one on GLUE? A verdict with intervals, for each of some budgets.

    hfssl verify-claim --config eval/verify_claim_smoke.yaml --out out/claim        (or python eval/verify_claim.py ...)
    hfssl verify-claim --config eval/verify_claim_books.yaml --text_path BOOKS --data_dir GLUE --out out/claim-books

Devlin et al. 2019, table 5, and Gisserot-Boukhlef et al. 2025 (arXiv 2507.00994), for whom it depends on the budget.
Arms: LM, blank LM, LM then blank LM, each BERT's net of one size on the same tokens in the same order, with as many
`--budget tokens`, flops or seconds. Each is pretrained with 3 seeds or more and fine-tuned with 3 or more; the pooling
is chosen on dev for each. Beside them a random init, TF-IDF and CBoW. The verdict (supported, not supported or
inconclusive) is Student's t on the pairs of seeds with Holm's correction, and a bootstrap over dev rows must agree. The
smoke takes under 10 minutes on two cores and says nothing of real tasks. The same command goes on where it was stopped;
started several times, the processes share the jobs. Expect "inconclusive" of small budgets.
"""

from transformers import BertConfig

from hfssl.config import parse_config
from hfssl.data.blocks import CorpusArguments
from hfssl.data.sources import TextArguments
from hfssl.errors import exits_on_bad_input
from hfssl.finetuning.arguments import LoopArguments
from hfssl.studies.claim import ClaimArguments, ClaimStudy
from hfssl.studies.claim_report import verify_claim


@exits_on_bad_input
def main(argv=None):
    config, text, corpus, args, loop = parse_config(
        TextArguments,
        CorpusArguments,
        ClaimArguments,
        LoopArguments,
        model=BertConfig,
        fixed={"vocab_size": "--vocab_size", "is_decoder": "the arms: they differ in it"},
        argv=argv,
    )
    return verify_claim(ClaimStudy(config, text, corpus, args, loop))


if __name__ == "__main__":
    main()
