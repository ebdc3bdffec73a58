"""What a user gets wrong, at the command: one line on standard error, exit code 2, nothing left behind."""

import gzip
import runpy

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hfssl.programs import program
from hfssl.training.arguments import TRACKERS


def _files(folder):
    """The inputs that the cases name."""
    folder.mkdir()
    (folder / "empty.txt").touch()
    (folder / "nothing").mkdir()
    (folder / "nothing" / "notes.pdf").write_bytes(b"%PDF")
    (folder / "latin.txt").write_bytes("good line\ncaf\xe9 au lait\n".encode("latin-1"))
    (folder / "broken.jsonl").write_text('{"text": "one"}\n{"text": \n')
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"some text that is long enough\n" * 100)[:40])
    pq.write_table(pa.table({"title": ["a"], "body": ["b"]}), folder / "columns.parquet")
    (folder / "short.txt").write_text("too short for a block\n\nof this size\n")
    (folder / "one.txt").write_text("word " * 9)
    (folder / "images").mkdir()
    for number in range(8):
        Image.fromarray(np.full((16, 16, 3), number * 20, np.uint8)).save(folder / "images" / f"{number}.png")
    elsewhere = [{"bytes": None, "path": str(folder.parent / "a.png")}]
    Image.new("RGB", (16, 16)).save(folder.parent / "a.png")
    pq.write_table(pa.table({"image": elsewhere * 9}), folder / "names.parquet")
    pixels = [{"bytes": (folder / "images" / "1.png").read_bytes(), "path": None}] * 80
    pq.write_table(pa.table({"image": pixels}), folder / "labels.parquet")
    for number, name in enumerate(("one", "two", "three"), 1):
        classes = ["cat", "dog", "cow"][:number] * 4
        pq.write_table(pa.table({"image": pixels[: len(classes)], "label": classes}), folder / f"{name}.parquet")
    (folder / "images" / "bad.png").write_bytes(b"\x89PNG no more")
    (folder / "glue" / "RTE").mkdir(parents=True)
    (folder / "glue" / "RTE" / "train.tsv").write_text("index\tsentence1\tsentence2\tlabel\n0\ta\tb\tentailment\n")
    (folder / "glue" / "MRPC").mkdir()
    (folder / "glue" / "MRPC" / "train.tsv").write_text("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n2\t1\t2\ta\tb\n")
    (folder / "unknown.yaml").write_text("learning_rat: 0.1\n")
    (folder / "model.yaml").write_text("model: {n_layers: 2}\n")
    return folder


RECIPES = GPT, BERT, SIMCLR, CPC, COLOR, PAINT, CBOW = [
    f"recipes/pretrain_{name}.py"
    for name in ("gpt", "bert", "simclr", "cpc", "colorization", "context_encoder", "cbow")
]
TRAIN_BPE, PROBE, GLUE = "tokenizers_train/train_bpe.py", "eval/run_probe.py", "eval/run_glue.py"
INFORMATION, CLAIM = "eval/run_information.py", "eval/verify_claim.py"
SMOKE = {path: path.replace("pretrain_", "smoke/").replace(".py", ".yaml") for path in RECIPES}

CASES = {
    "a missing file": (GPT, "--text_path {in}/no.txt", "{in}/no.txt"),
    "an empty file": (GPT, "--text_path {in}/empty.txt", "empty.txt"),
    "a folder with no usable file": (GPT, "--text_path {in}/nothing", "{in}/nothing"),
    "not UTF-8": (GPT, "--text_path {in}/latin.txt", "latin.txt' is not utf-8: byte 13"),
    "not UTF-8 offers --encoding": (GPT, "--text_path {in}/latin.txt", "--encoding"),
    "no JSON": (BERT, "--text_path {in}/broken.jsonl", "broken.jsonl:2"),
    "a cut archive": (GPT, "--text_path {in}/cut.txt.gz", "cut.txt.gz"),
    "no such column": (GPT, "--text_path {in}/columns.parquet", "title"),
    "too little text": (GPT, "--text_path {in}/short.txt --vocab_size 300", "less than one block"),
    "a vocabulary under the alphabet": (TRAIN_BPE, "--text_path builtin:prose --vocab_size 100", "25"),
    "a recipe's vocabulary under the alphabet": (GPT, "--vocab_size 100", "25"),
    "blocks over the positions": (GPT, "--block_size 4096", "block_size 4096"),
    "a block of no tokens": (GPT, "--block_size 0", "block_size"),
    "an unknown key": (GPT, "--config {in}/unknown.yaml", "learning_rate"),
    "an unknown key of the model": (GPT, "--config {in}/model.yaml", "n_layer"),
    "a missing config": (GPT, "--config {in}/no.yaml", "no.yaml"),
    "an unknown unit of masking": (BERT, "--mask_unit wrod", "'word'"),
    "phrases without a gazetteer": (BERT, "--mask_unit phrase", "needs --gazetteer FILE"),
    "a gazetteer that is not there": (BERT, "--mask_unit phrase --gazetteer nowhere.txt", "cannot read the gazetteer"),
    "a BERT that reads left to right": (BERT, "--model.is_decoder true", "use recipes/pretrain_gpt.py"),
    "an unknown flag": (SIMCLR, "--learning_rat 1", "learning_rate"),
    "a tracker that is not installed": (GPT, "--report_to trackio", "pip install trackio"),
    "heads that do not divide": (GPT, "--model.n_head 3", "'model' settings"),
    "a model flag that is no YAML": (GPT, "--model.n_head {a", "--model.n_head: not valid YAML"),
    "an unknown backbone setting": (SIMCLR, "--model.backbone_kwargs {\"depht\":3}", "'depht'"),
    "an unknown backbone": (SIMCLR, "--model.backbone resnet8t", "resnet"),
    "an image that names a file elsewhere": (SIMCLR, "--image_path {in}/names.parquet", "row 0 of"),
    "a cache that cannot be written": (GPT, "--corpus_dir {in}/short.txt/cache", "--corpus_dir"),
    "a missing image folder": (SIMCLR, "--image_path {in}/no", "{in}/no"),
    "a folder without images": (SIMCLR, "--image_path {in}/nothing", "{in}/nothing"),
    "a corrupt image": (SIMCLR, "--image_path {in}/images --per_device_train_batch_size 4", "bad.png"),
    "a batch of one image": (SIMCLR, "--per_device_train_batch_size 1", "nothing to compare with"),
    "chunks with BatchNorm": (SIMCLR, "--large_batch chunk", "use --large_batch checkpoint"),
    "an unknown way to a large batch": (SIMCLR, "--large_batch chunks", "did you mean 'chunk'"),
    "an unknown scaling": (SIMCLR, "--learning_rate_scaling linea", "did you mean 'linear'"),
    "a supervised loss without labels": (
        SIMCLR, "--model.supervised true --label_column none --image_path {in}/labels.parquet", "needs labels"
    ),
    "a batch over the data": (SIMCLR, "--per_device_train_batch_size 5000", "5,000"),
    "an unknown builtin": (GPT, "--text_path builtin:prosa", "builtin:prose"),
    "a Hub id while offline": (GPT, "--text_path somebody/some-text", "somebody/some-text"),
    "image Hub id while offline": (SIMCLR, "--image_path somebody/some-images", "somebody/some-images"),
    "more steps than rows of patches": (CPC, "--model.prediction_steps 6", "a grid of 8 rows, and there are 7 x 7"),
    "a patch over the image": (CPC, "--model.patch_size 40", "larger than the image, image_size 32"),
    "an unknown objective": (CPC, "--model.objective pair", "did you mean 'pairs'"),
    "no negatives": (CPC, "--model.negatives other_images --per_device_train_batch_size 1", "of 2 or more"),
    "a pair and no distractor": (CPC, "--model.objective pairs --per_device_train_batch_size 1", "of 2 or more"),
    "frames for image CPC": (CPC, "--frame_path builtin:drift", "--model.objective pairs"),
    "dropped colours of pairs": (CPC, "--model.objective pairs --patch_color_drop 0.5", "--model.objective image"),
    "a clip under the gap": (
        CPC, "--frame_path {in}/images --max_gap 9 --model.objective pairs", "9 frame(s), too few for a gap of 9"
    ),
    "a corrupt frame": (CPC, "--frame_path {in}/images --model.objective pairs", "bad.png"),
    "online kNN on too few images": (SIMCLR, "--online_knn --online_knn_bank 5000", "5,500 training images"),
    "information on too few images": (SIMCLR, "--information --information_images 5000", "5,000 training images"),
    "an unknown grid": (INFORMATION, "--grid smal", "did you mean 'small'"),
    "an unknown estimator": (INFORMATION, "--methods infonc", "did you mean 'infonce'"),
    "a single candidate": (INFORMATION, "--candidates 1", "--candidates 1: x has no other candidate"),
    "too few samples of a grid": (INFORMATION, "--samples 100", "--samples at least 10 times the candidates, 640"),
    "an estimator that suits no cell": (INFORMATION, "--grid channel --methods doe ksg", "doe, ksg: no cell of"),
    "a model that is not there": (PROBE, "--model {in}/no --dataset builtin:digits", "{in}/no"),
    "a model of timm that is not there": (PROBE, "--model random:resnet8 --dataset builtin:digits", "'resnet18'"),
    "one class": (PROBE, "--model pixels --train_file {in}/one.parquet --test_file {in}/two.parquet", "one class"),
    "a class that train lacks": (
        PROBE, "--model pixels --train_file {in}/two.parquet --test_file {in}/three.parquet", "only in plain ['cow']"
    ),
    "no labels": (
        PROBE, "--model pixels --train_file {in}/labels.parquet --test_file {in}/two.parquet", "needs labels"
    ),
    "k above the bank": (PROBE, "--model pixels --dataset builtin:digits --knn_k 2000", "k = 2000 neighbours of 1297"),
    "layers of pixels": (PROBE, "--model pixels --dataset builtin:digits --layers", "leave --layers out"),
    "an unknown linear probe": (PROBE, "--model pixels --dataset builtin:digits --protocol sdg", "'sgd'"),
    "a supervised anchor of pixels": (
        PROBE, "--model pixels --dataset builtin:digits --seeds 1 --supervised_steps 5", "no weights to train"
    ),
    "fine-tuning on pixels": (PROBE, "--model pixels --dataset builtin:digits --finetune", "no weights to train"),
    "the training images as test images": (
        PROBE, "--model pixels --train_file {in}/two.parquet --test_file {in}/two.parquet", "both the training and the"
    ),
    "too few images of a class": (
        PROBE, "--model pixels --dataset builtin:digits --labels_per_class 500", "give a smaller --labels_per_class"
    ),
    "a folder for results that cannot be": (
        PROBE, "--model pixels --dataset builtin:digits --out {in}/empty.txt/probe", "no folder; give another --out"
    ),
    "grey images": (COLOR, "--image_path builtin:digits", "are grey: they have no colour to learn"),
    "an unknown loss of colours": (
        COLOR, "--model.color_loss l3", "error: --model.color_loss: ColorizationConfig: unknown color_loss 'l3': one of"
    ),
    "jittered colours": (COLOR, "--augmentations crop color_jitter", "'color_jitter' changes the pixels"),
    "a margin over the image": (COLOR, "--color_margin 16", "leaves nothing of 32 pixels"),
    "an image between the strides": (PAINT, "--model.image_size 40", "of the backbone's strides, 40 is none"),
    "an unknown mask": (PAINT, "--model.mask round", "one of center, block, free"),
    "two players under one norm": (PAINT, "--max_grad_norm 1", "ties the two players together"),
    "fewer words than the window": (
        CBOW, "--text_path {in}/short.txt --min_count 1 --eval_fraction 0 --model.window 9", "has 8 words that come"
    ),
    "no word comes often": (CBOW, "--text_path {in}/short.txt --eval_fraction 0", "no word comes 5 times"),
    "one word": (CBOW, "--text_path {in}/one.txt --eval_fraction 0", "only 'word' comes 5 times"),
    "held-out text of word vectors": (CBOW, "--eval_text_path {in}/no.txt", "--eval_text_path has no use here"),
    "an evaluation of word vectors": (CBOW, "--eval_strategy epoch", "--eval_strategy has no use here"),
    "an unknown engine": (CBOW, "--engine gpu", "one of auto, cpu, trainer"),
    "an unknown gradient": (CBOW, "--model.gradient exakt", "one of word2vec, exact"),
    "an unknown option of words": (CBOW, "--subsampel 0.1", "did you mean 'subsample'"),
    "the vocabulary's size": (CBOW, "--model.vocab_size 9", "use --min_count"),
    "too few pieces": (CBOW, "--model.subwords bpe --model.subword_vocab_size 9", "a piece for each byte, not 9"),
    "a cache of words that cannot be written": (CBOW, "--cache {in}/short.txt/cache", "give another --cache"),
    "a folder without the task": (
        GLUE, "--model builtin-demo --tasks rte --data_dir {in}/nothing", "no train split of RTE in '{in}/nothing'"
    ),
    "a wrong number of rows": (
        GLUE, "--model builtin-demo --tasks rte --data_dir {in}/glue", "its file's name, such as train_subset.tsv"
    ),
    "no model for GLUE": (GLUE, "--tasks rte", "no model: hfssl VERB MODEL, or --model MODEL"),
    "an unknown label": (
        GLUE, "--model builtin-demo --tasks cb --data_dir {in}/glue", "it is one of superglue: hfssl superglue"
    ),
    "a label that is none": (
        GLUE, "--model builtin-demo --tasks mrpc --data_dir {in}/glue", "train.tsv:2: '2' is no label of MRPC"
    ),
    "a claim on too few seeds": (CLAIM, "--budgets 99 --pretraining_seeds 2", "--few_seeds allows fewer, for a try"),
    "a claim without a budget": (CLAIM, "--data_dir builtin:toyglue", "--budgets takes positive numbers, of tokens"),
    "a claim of an unknown task": (CLAIM, "--budgets 99 --tasks colla --data_dir builtin:toyglue", "'cola'"),
    "a model for GLUE that is not there": (GLUE, "--model {in}/no --tasks rte --data_dir {in}/glue", "RTE train has 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_line_code_2_and_nothing_left(tmp_path, capsys, monkeypatch, case):
    monkeypatch.setitem(TRACKERS, "trackio", "not_installed_anywhere")
    path, arguments, says = CASES[case]
    folder, out, cache = str(_files(tmp_path / "in")), tmp_path / "out", tmp_path / "cache"
    monkeypatch.setenv("HFSSL_CACHE", str(cache))
    argv = arguments.replace("{in}", folder).split()
    if path in SMOKE and "--config" not in argv:
        argv = ["--config", str(program(SMOKE[path])), *argv]
    if path != PROBE:
        argv += ["--out" if path in (GLUE, INFORMATION, CLAIM) else "--output_dir", str(out)]
    with pytest.raises(SystemExit) as left:
        runpy.run_path(str(program(path)))["main"](argv)
    lines = capsys.readouterr().err.splitlines()
    assert left.value.code == 2
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], lines
    assert says.replace("{in}", folder) in errors[0]
    assert not out.exists()
    assert not list(cache.rglob(".*"))  # nothing half made, visible or not
