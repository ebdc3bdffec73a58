"""Are the codes of a co-training model classes? Hungarian accuracy, many-to-one, V-measure, NMI, beside k-means.

    hfssl codes out/cotraining --dataset builtin:digits
    python eval/run_codes.py --model out/cotraining --train_file train.parquet --test_file test.parquet --out codes.json

The codes are the model's, the likeliest of each test image; labels are looked at in the comparison alone. k-means has
as many clusters, is fitted on the training images (raw pixels, or the model's features) and compared on the same test
images. Expected: see eval/README.md. Seconds on the digits; on CIFAR-10 k-means takes minutes.
"""

from rich.console import Console

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.code_report import CodeArguments, codes_table, score_codes


@exits_on_bad_input
def main(argv=None):
    (args,) = parse_config(CodeArguments, argv=argv)
    found = score_codes(args)
    Console().print(codes_table(found, f"Codes of {args.model} and the labels of the test images"))
    return found


if __name__ == "__main__":
    main()
