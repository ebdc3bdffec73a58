"""GLUE: nine tasks and AX, fine-tuned, scored by the official rules, with intervals and a zip for the server.

    hfssl glue MODEL --data_dir DATA --out OUT                  (or python eval/run_glue.py --model MODEL ...)
    hfssl glue builtin-demo --data_dir builtin:toyglue --out out/toy
    hfssl glue PATH --tasks cola,mrpc,rte,stsb --data_dir data/glue --seeds 2 --out out/model

Wang et al. 2018. MODEL is anything that from_pretrained takes. Settings are RoBERTa's or BERT's published ones, task by
task (hfssl/finetuning/recipes.py); --search tries the published grid. The demo takes a minute or two on two cores and
says nothing about real tasks; BERT-base on all of GLUE takes hours on a GPU. A run that was stopped goes on where it
was with the same command; the same command on another GPU or machine takes jobs from the same --out.
"""

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.finetuning.arguments import LoopArguments, SuiteArguments
from hfssl.finetuning.command import run_suite


@exits_on_bad_input
def main(argv=None):
    return run_suite("glue", *parse_config(SuiteArguments, LoopArguments, argv=argv))


if __name__ == "__main__":
    main()
