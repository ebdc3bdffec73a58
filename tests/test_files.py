import threading

import pytest

from hfssl.files import is_missing_folder, write_whole


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "new" / "result.json"
    assert write_whole(path, "h\u00e9llo\n") == path and path.read_bytes() == "h\u00e9llo\n".encode()
    write_whole(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    monkeypatch.setattr("os.replace", lambda *given: (_ for _ in ()).throw(OSError("no space")))
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "other")
    assert path.read_bytes() == b"\x00\x01" and [found.name for found in path.parent.iterdir()] == ["result.json"]


def test_many_writers_leave_one_whole_file(tmp_path):
    path, failed = tmp_path / "result", []

    def write(number):
        try:
            for _ in range(50):
                write_whole(path, str(number) * 10_000)
        except OSError as error:
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = path.read_text()
    assert not failed and content == content[0] * 10_000 and len(list(tmp_path.iterdir())) == 1


def test_a_name_under_a_folder_that_is_here_is_no_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out" / "model").mkdir(parents=True)
    assert not is_missing_folder("out/model") and not is_missing_folder("org/model") and not is_missing_folder("gpt2")
    assert all(map(is_missing_folder, ("out/modle", "./model", "~/nowhere-at-all", "/nowhere/at/all", "a/b/c")))
