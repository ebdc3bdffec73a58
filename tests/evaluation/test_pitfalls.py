"""The known pitfalls of GLUE and SuperGLUE, each with the test that proves it is avoided.

The numbers are those of the list that this part was built by; the first words say what goes wrong elsewhere.

 1. run_glue.py writes class names, its own file names, row numbers for idx, no AX, no clipping
    test_submission.test_each_tasks_own_spelling
    test_submission.test_rows_come_in_the_order_of_the_index_whatever_that_of_the_data
    test_submission.test_names_that_are_not_the_servers
    test_submission.test_a_fault_in_every_row_is_one_message
 2. test predictions decoded in the data set's order where the checkpoint has its own
    test_tasks.test_a_checkpoints_classes_are_matched_by_name
    test_submission.test_what_is_no_label_is_not_written
    test_heads.test_a_checkpoints_own_order_is_honoured_in_train_dev_and_test
    test_suite.test_a_checkpoints_own_order_reaches_the_submission
 3. three orders of MNLI's classes
    test_tasks.test_a_checkpoints_classes_are_matched_by_name
    test_submission.test_exchanged_labels_are_found_by_the_training_data
    test_submission.test_exchanged_labels_against_gold_labels
 4. entailment is 0 in RTE and QNLI, 1 in WNLI; CB has two orders
    test_task_data.test_parquet_with_the_hubs_columns
    test_task_data.test_without_class_names_the_hubs_order_holds_and_shards_are_joined
 5. idx of MRPC is not contiguous; labels of some test sets are public
    test_task_data.test_labels_of_test_are_never_read
    test_pitfalls.test_an_index_with_gaps_is_kept
 6. WNLI's dev set is adversarial; most systems are at the majority class or use a trick
    test_leaderboard.test_published_footnotes
    test_leaderboard.test_own_footnotes
    test_pitfalls.test_wnli_is_not_judged_by_a_bag_of_words
    test_suite.test_wnli_as_the_majority_is_declared
    test_suite.test_wnli_by_ranking_takes_the_same_runs_and_is_declared
 7. QQP's test set has another balance than dev
    test_leaderboard.test_qqp_on_dev_says_that_test_is_another_distribution
    test_leaderboard.test_an_own_row_stands_in_its_place_and_only_in_its_part
 8. download_glue_data.py swaps QQP and STS-B and may write no MRPC dev set
    test_task_data.test_a_missing_or_swapped_file_is_said
 9. CRLF line ends
    test_submission.test_each_tasks_own_spelling
    test_submission.test_a_fault_is_found_with_its_line
10. STS-B outside 0 to 5
    test_submission.test_similarities_are_clipped_and_have_three_places
    test_submission.test_a_fault_is_found_with_its_line
11. a whole run of SuperGLUE that ends in a KeyError; "rte" in both suites
    test_tasks.test_glue_and_superglue_share_the_name_rte_but_not_the_row
    test_submission.test_the_whole_board_at_its_official_size
12. an average that is divided by the diagnostics too
    test_averages.test_only_the_official_rule_gives_the_small_berts_scores
    test_averages.test_diagnostics_are_in_no_average
13. an average over all metrics; made-up scores for a metric that fails
    test_averages.test_only_the_official_rule_gives_the_small_berts_scores
    test_metrics.test_constant_predictions_are_0_and_said
14. only the mismatched result kept; no test predictions; the loss of accumulated parts
    test_trainer.test_an_update_is_the_same_in_however_many_parts
    test_results.test_an_inconsistent_result_is_not_written
    test_submission.test_a_part_is_written_as_incomplete_and_says_what_is_missing
15. MultiRC grouped by the question alone, or by the order of rows; an old version of its data
    test_metrics.test_multirc_groups_by_paragraph_and_question_in_any_order
    test_task_data.test_bad_lines_are_named
    test_task_data.test_superglues_official_lines
16. ReCoRD: inclusive ends, repeated entities, highlights, normalisation, answers that are no entity
    test_task_data.test_superglues_official_lines
    test_task_data.test_records_highlights_are_joined
    test_metrics.test_record_normalises_and_takes_the_best_answer
    test_submission.test_what_is_no_label_is_not_written
17. WSC's spans are not always part of the text
    test_task_data.test_wsc_spans_that_are_no_substring
18. AX, AX-b and AX-g have no train; SuperGLUE's script is refused by datasets
    test_tasks.test_the_suites_are_whole_and_their_rows_consistent
    test_task_data.test_superglue_comes_from_the_hubs_conversion
19. QNLI has two versions, and a ranking trick
    test_task_data.test_qnli_v1_is_named
    test_leaderboard.test_published_footnotes
20. the Hub's AX has no labels
    test_task_data.test_ax_by_phenomenon_from_the_tagged_file
21. constant predictions end in NaN
    test_metrics.test_constant_predictions_are_0_and_said
    test_submission.test_what_is_taken_but_looks_wrong_is_a_warning
"""

import ast
import dataclasses
import random
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from hfssl.evaluation.prediction_files import Found
from hfssl.evaluation.relabelling import exchanged_labels, looks_relabelled, witness
from hfssl.evaluation.submission_check import Report, _Witnesses
from hfssl.evaluation.task_data import SplitData, load_split
from hfssl.evaluation.tasks import TASKS


def test_every_pitfall_has_tests_and_all_of_them_exist():
    numbers = [int(number) for number in re.findall(r"^ ?(\d+)\. ", __doc__, re.MULTILINE)]
    assert numbers == list(range(1, 22))
    named = re.findall(r"^    (test_\w+)\.(test_\w+)$", __doc__, re.MULTILINE)
    assert len(named) >= 21
    places = {path.stem: path for path in Path(__file__).parent.parent.rglob("test_*.py")}
    for module in {module for module, _ in named}:
        tree = ast.parse(places[module].read_text())
        there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {test for place, test in named if place == module} <= there


def test_an_index_with_gaps_is_kept(tmp_path):
    """Pitfall 5: MRPC's idx is the row of a joint file of 4,076, of which train and dev have a part each."""
    table = pa.table({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [1, 0], "idx": [9, 4070]})
    pq.write_table(table, tmp_path / "mrpc-train.parquet")
    task = dataclasses.replace(TASKS["glue/mrpc"], counts={"train": 2})
    data = load_split(task, "train", str(tmp_path))
    assert data.idx == [9, 4070] and data.labels == ["equivalent", "not_equivalent"]


def adversarial():
    """Training pairs, and a test set that repeats their sentences where the other answer is right."""
    rng = random.Random(0)
    words = ["cat", "dog", "cup", "key", "hat", "box", "pen", "bag"]
    train, test, labels = [], [], []
    for first in words:
        for second in words:
            if first != second:
                label = rng.choice(["entailment", "not_entailment"])
                train.append((f"the {first} did not fit the {second}", f"the {first} was {second} large"))
                labels.append(label)
                test.append(train[-1])
    other = {"entailment": "not_entailment", "not_entailment": "entailment"}
    return train, labels, test * 3, [other[label] for label in labels] * 3


def test_wnli_is_not_judged_by_a_bag_of_words(monkeypatch):
    """Pitfall 6: a model that is right on such a test set looks turned round to what learned words."""
    train, labels, test, gold = adversarial()

    def data(task, split, rows, found):
        texts = tuple(map(list, zip(*rows, strict=True)))
        return SplitData(task, split, texts, found, list(range(len(rows))), "", len(rows))

    for name, flagged in (("wnli", False), ("rte", True)):
        task = TASKS[f"glue/{name}"]
        known, asked = data(task, "train", train, labels), data(task, "test", test, None)
        assert exchanged_labels(gold, list(witness(known)(asked)), task.labels) is not None
        assert bool(looks_relabelled(asked, gold, witness(known))) == flagged
        report = Report("zip", "glue")
        monkeypatch.setattr("hfssl.evaluation.submission_check.load_split", lambda *a, known=known, **k: known)
        _Witnesses("data").flag("file", Found(dict(enumerate(gold))), task, asked, report)
        assert bool(report.warnings) == flagged
