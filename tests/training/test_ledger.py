"""Jobs in one file: killed, torn, shared, and never done twice."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from hfssl.errors import InputError
from hfssl.training.ledger import Ledger

JOBS = {f"job{number}": number for number in range(6)}


class Worker:
    """Executes a job: notes that it began, may kill its process, takes some time."""

    def __init__(self, folder, kill_at=None, seconds=0.0):
        self.folder, self.kill_at, self.seconds = folder, kill_at, seconds

    def __call__(self, name, number):
        with (self.folder / "begun").open("a") as file:
            file.write(f"{name} {os.getpid()}\n")
        if name == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return {"square": number**2}


def begun(folder):
    return [tuple(line.split()) for line in (folder / "begun").read_text().splitlines()]


def start(folder, **how):
    """The same jobs in a process of its own."""
    target = Ledger(folder / "ledger.jsonl", wait=0.02).run
    process = multiprocessing.get_context("fork").Process(target=target, args=(JOBS, Worker(folder, **how)))
    process.start()
    return process


def test_each_job_is_done_once_and_in_order(tmp_path):
    ledger = Ledger(tmp_path / "new" / "ledger.jsonl", {"steps": 3})
    results = ledger.run(JOBS, Worker(tmp_path))
    assert list(results) == list(JOBS) and results["job3"] == {"square": 9}
    more = {"job9": 9, **JOBS}
    assert list(ledger.run(more, Worker(tmp_path))) == list(more)
    assert [name for name, _ in begun(tmp_path)] == [*JOBS, "job9"]
    lines = [json.loads(line) for line in ledger.path.read_text().splitlines()]
    assert lines[0] == {"settings": {"steps": 3}}
    assert [line["job"] for line in lines[1:]] == [*JOBS, "job9"] and all(line["seconds"] >= 0 for line in lines[1:])
    assert Ledger(ledger.path).results() == ledger.results()


def test_a_killed_process_loses_the_job_in_hand_and_no_other(tmp_path):
    process = start(tmp_path, kill_at="job3")
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    results = Ledger(tmp_path / "ledger.jsonl").run(JOBS, Worker(tmp_path))
    assert results == {name: {"square": number**2} for name, number in JOBS.items()}
    names = [name for name, _ in begun(tmp_path)]
    assert names == ["job0", "job1", "job2", "job3", "job3", "job4", "job5"]


@pytest.mark.distributed
def test_processes_share_the_work(tmp_path):
    processes = [start(tmp_path, seconds=0.1) for _ in range(3)]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0, "each returns the results of all jobs"
    assert sorted(name for name, _ in begun(tmp_path)) == list(JOBS), "no job twice"
    assert len({pid for _, pid in begun(tmp_path)}) == 3, "each process has done some"


def tidy(folder, name):
    with Ledger(folder / "ledger.jsonl").alone(), (folder / "tidied").open("a") as file:
        file.write(f"{name} begins\n")
        file.flush()
        time.sleep(0.1)
        file.write(f"{name} ends\n")


@pytest.mark.distributed
def test_what_is_done_alone_is_done_by_one_process_at_a_time(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=tidy, args=(tmp_path, name)) for name in "abc"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    lines = [line.split() for line in (tmp_path / "tidied").read_text().splitlines()]
    assert [what for _, what in lines] == ["begins", "ends"] * 3
    assert all(lines[place][0] == lines[place + 1][0] for place in (0, 2, 4)), lines
    assert Ledger(tmp_path / "ledger.jsonl").run({"job0": 0}, Worker(tmp_path)), "the file goes on as before"


def test_a_job_that_was_done_between_the_look_and_the_claim_is_not_done_again(tmp_path):
    class Late(Ledger):
        def _claim(self, name):
            if not (tmp_path / "begun").exists():
                start(tmp_path).join(30)
            return super()._claim(name)

    assert len(Late(tmp_path / "ledger.jsonl").run(JOBS, Worker(tmp_path))) == len(begun(tmp_path)) == len(JOBS)


@pytest.mark.distributed
def test_a_job_is_free_at_once_when_its_process_is_killed(tmp_path):
    """The other process waits for the job that is being done, and takes it over."""
    first = start(tmp_path, seconds=60)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    second = start(tmp_path)
    while len(begun(tmp_path)) < len(JOBS):
        time.sleep(0.01)
    time.sleep(0.1)
    assert second.is_alive() and len(begun(tmp_path)) == len(JOBS), "it waits"
    first.kill()
    second.join(30)
    assert second.exitcode == 0
    assert begun(tmp_path)[-1] == ("job0", str(second.pid))
    assert len(Ledger(tmp_path / "ledger.jsonl").results()) == len(JOBS)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_an_unfinished_last_line_costs_its_job_only(tmp_path, keep):
    path = tmp_path / "ledger.jsonl"
    Ledger(path).run(JOBS, Worker(tmp_path))
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]) + lines[-1][: int(len(lines[-1]) * keep)])
    assert len(Ledger(path).run(JOBS, Worker(tmp_path))) == len(JOBS)
    assert [name for name, _ in begun(tmp_path)] == [*JOBS, "job5"]
    assert len(Ledger(path).run(JOBS, Worker(tmp_path))) == len(JOBS) and len(begun(tmp_path)) == 7
    path.write_text("".join(lines).strip())  # only the end of the line is missing
    assert len(Ledger(path).run({**JOBS, "job6": 6}, Worker(tmp_path))) == 7 and len(begun(tmp_path)) == 8
    path.write_text(lines[0][:5])  # killed at the first line of all
    assert len(Ledger(path).run(JOBS, Worker(tmp_path))) == len(JOBS) and len(begun(tmp_path)) == 14


def test_a_failure_does_not_stop_the_others_and_is_tried_again(tmp_path, caplog):
    attempts = []

    def fails(name, number):
        attempts.append(name)
        if number == 1:
            raise InputError("the loss is not finite")
        if number == 2:
            raise RuntimeError("no\nmemory")
        return number

    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises(
        InputError, match=r"^2 of 6 jobs failed, the first job1: the loss is not finite; the same comma"
    ):
        ledger.run(JOBS, fails)
    assert attempts == list(JOBS) and "job2 failed: no memory" in caplog.text
    assert list(ledger.results()) == ["job0", "job3", "job4", "job5"]
    assert ledger.run(JOBS, lambda name, number: number) == JOBS
    with pytest.raises(InputError, match=r"1 of 1 jobs failed, the first x: Object of type object is not JSON"):
        ledger.run({"x": 0}, lambda name, number: object())


def test_a_signal_frees_the_job(tmp_path):
    def stopped(name, number):
        raise SystemExit(143)

    with pytest.raises(SystemExit):
        Ledger(tmp_path / "ledger.jsonl").run(JOBS, stopped)
    process = start(tmp_path)
    process.join(30)
    assert process.exitcode == 0 and len(begun(tmp_path)) == len(JOBS)


def test_bad_input(tmp_path, monkeypatch):
    path = tmp_path / "ledger.jsonl"
    Ledger(path, {"steps": 3, "net": "a"}).run({}, print)
    with pytest.raises(InputError, match=r"other settings \(steps: 3, now 4\); delete it or give another folder"):
        Ledger(path, {"steps": 4, "net": "a"}).run({}, print)
    (tmp_path / "notes.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="is no ledger"):
        Ledger(tmp_path / "notes.txt").run({}, print)
    with pytest.raises(InputError, match=r"cannot use the ledger .*: Not a directory"):
        Ledger(path / "below" / "a.jsonl").run({}, print)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="start the program several times"):
        Ledger(path, {"steps": 3, "net": "a"}).run({}, print)
