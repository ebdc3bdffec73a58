"""What do frozen features know? kNN and a linear probe, beside a random init and raw pixels.

    python eval/run_probe.py --model out/simclr --dataset builtin:digits --out out/probe
    python eval/run_probe.py --model out/simclr --train_file train.parquet --test_file test.parquet --seeds 3
    accelerate launch --multi_gpu --num_processes 2 eval/run_probe.py --model ... --device cpu

The protocol stands in hfssl/evaluation/probes.py and in results.json. The model is a directory that any of our recipes
saved, or any other that hfssl/evaluation/encoders.py lists: timm:NAME, random:NAME, a Hub id, pixels.
--supervised_steps N adds what the architecture learns from the labels, --finetune what few labels make of the model.
builtin:digits takes seconds on two cores, CIFAR-10 a few minutes and 3 GB, of which raw pixels take most; raw pixels
reach 98 % on the digits, so look at the shifted and rotated ones and at five labels a class.
"""

from dataclasses import asdict

from rich.console import Console

from hfssl.config import parse_config
from hfssl.errors import exits_on_bad_input
from hfssl.evaluation.features import is_first_process, join_processes
from hfssl.evaluation.probe_data import ProbeArguments, open_probe
from hfssl.evaluation.probe_report import geometry_table, layer_table, probe_table, write_results
from hfssl.evaluation.probes import check_probe, default_anchors, probe
from hfssl.finetuning.probe_finetuning import (
    FinetuningArguments,
    classification_model,
    fine_tuned_rows,
    supervised_encoder,
)  # fmt: skip
from hfssl.training.checkpoint import check_writable


@exits_on_bad_input
def main(argv=None):
    args, tuning = parse_config(ProbeArguments, FinetuningArguments, argv=argv)
    device = join_processes(args.device)
    encoder, train, tests = open_probe(args)
    classes = check_probe(encoder, train, tests, args.labels_per_class, args.knn_k, args.layers)
    if args.out:
        check_writable(args.out, "--out")
    tuned = []
    if tuning.finetune:
        classification_model(encoder, classes)  # refuses what has no classifier
        tuned = fine_tuned_rows(encoder, train, tests, args.seeds, tuning, device)
    anchors = default_anchors(encoder, train) if args.anchors else []
    if tuning.supervised_steps:
        anchors.append(supervised_encoder(encoder, train, tuning, device, tuning.supervised_seed))
    result = probe(
        encoder,
        train,
        tests,
        seeds=args.seeds,
        labels_per_class=args.labels_per_class,
        label_fractions=args.label_fractions,
        knn_k=args.knn_k,
        protocol=args.protocol,
        anchors=anchors,
        layers=args.layers,
        batch_size=args.probe_batch_size,
        device=device,
        progress=True,
        first_seed=args.first_seed,
    )
    result.rows += tuned
    if is_first_process():
        console = Console()
        console.print(probe_table(result.rows, title=f"Frozen features of {args.model}"))
        console.print(geometry_table(result.geometry))
        if args.layers:
            console.print(layer_table(result.rows))
        if args.out:
            write_results(args.out, result, asdict(args) | asdict(tuning), train, tests)
            console.print(f"Results, figures and report.html are in {args.out}/", highlight=False)
    return result


if __name__ == "__main__":
    main()
