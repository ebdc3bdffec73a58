from hfssl.evaluation.rendering import ranked_hypotheses
from hfssl.evaluation.task_data import SplitData
from hfssl.evaluation.tasks import TASKS


def test_wnli_rows_of_one_text_compete_wherever_they_stand():
    """A text's best row is entailed even if no margin is positive; a lone row goes by its sign; of equals the first."""
    texts = ["cup", "dog", "cup", "one", "two", "cup", "dog"]
    data = SplitData(TASKS["glue/wnli"], "test", (texts, ["claim"] * 7), None, list(range(7)), "here", 7)
    found = ranked_hypotheses(data, [-3.0, 2.0, -1.0, 0.5, -0.5, -2.0, 2.0])
    assert [row for row, label in enumerate(found) if label == "entailment"] == [1, 2, 3]
    assert set(found) == {"entailment", "not_entailment"}
