import pytest

from hfssl.errors import InputError, exits_on_bad_input


@pytest.mark.parametrize(
    ("rank", "own", "said"),
    [
        ("0", False, "error: bad\n"),
        ("0", True, "error: bad\n"),
        ("1", False, ""),
        ("1", True, "error: process 1: bad\n"),
    ],
)
def test_what_all_processes_meet_is_said_once_and_what_one_meets_by_that_one(monkeypatch, capsys, rank, own, said):
    @exits_on_bad_input
    def main():
        error = InputError("bad")
        error.own = own
        raise error

    monkeypatch.setenv("RANK", rank)
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and capsys.readouterr().err == said
