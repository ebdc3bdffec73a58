"""SuperGLUE: eight tasks, AX-b and AX-g, fine-tuned, scored by the official rules, with intervals and a zip.

    hfssl superglue MODEL --data_dir DATA --out OUT             (or python eval/run_superglue.py --model MODEL ...)
    hfssl superglue PATH --tasks cb,copa,wic --data_dir data/superglue --out out/model
    hfssl superglue PATH --tasks cb,rte --mnli_model out/glue/models/mnli --data_dir data/superglue --out out/model

Wang et al. 2019. COPA and ReCoRD score candidates with a stock sequence classifier; WiC and WSC read two spans in their
context (hfssl/models/modeling_span.py). Settings, seeds, resuming and what is written are those of eval/run_glue.py.
The toy tasks take two minutes on two cores; a large model takes hours on a GPU.
"""

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.command import run_suite


@exits_on_bad_input
def main(argv=None):
    return run_suite("superglue", *parse_config(SuiteArguments, LoopArguments, argv=argv))


if __name__ == "__main__":
    main()
