"""The set in force: exchanged whole or not at all, however the file was exchanged."""

import os
from pathlib import Path

import pytest

from policies import KINDS
from proxy.policy.document import PolicyFileError
from proxy.policy.shelf import Loaded, Rejected, Shelf
from tests.proxy.policy.files import HEAD, UPSTREAM

ONE = HEAD + "policies: [{name: one, max_tokens: {cap: 1}}]\n"
TWO = HEAD + "policies: [{name: two, max_tokens: {cap: 2}}]\n"
BROKEN = HEAD + "policies: [{name: two, max_tokens: {cap: 0}}]\n"
SECRET = HEAD + 'upstreams: {a: {base_url: "http://a", api_key: "${file:key}"}}\n'


def shelf_of(path: Path) -> Shelf:
    shelf = Shelf(kinds=KINDS, env={}, upstream=UPSTREAM)
    shelf.load(path)
    return shelf


def settled(shelf: Shelf) -> bool:
    """Whether a change is seen and done with: two looks, as the watcher takes one after the other."""
    shelf.changed()
    return shelf.changed()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(ONE)
    return path


def test_a_file_that_did_not_change_is_not_loaded_again(path: Path) -> None:
    shelf = shelf_of(path)
    os.utime(path, (0, 0))
    assert not settled(shelf)


def test_a_new_file_replaces_the_set_and_calls_keep_theirs(path: Path) -> None:
    shelf = shelf_of(path)
    of_a_running_call = shelf.current
    path.write_text(TWO)
    assert settled(shelf)
    result = shelf.reload()
    assert isinstance(result, Loaded)
    assert (result.policies, result.replaced) == (shelf.current, of_a_running_call.version)
    assert [policy.name for policy in shelf.current.policies] == ["two"]
    assert [policy.name for policy in of_a_running_call.policies] == ["one"]
    assert not settled(shelf)


@pytest.mark.parametrize("text", [BROKEN, "", "version: 1\nkeys:\n  - {id: app, anon", HEAD + "no: such key\n"])
def test_a_broken_file_changes_nothing_and_is_reported_once(path: Path, text: str) -> None:
    shelf = shelf_of(path)
    before = shelf.current
    path.write_text(text)
    assert settled(shelf)
    result = shelf.reload()
    assert isinstance(result, Rejected)
    assert all(mistake.file == str(path) for mistake in result.mistakes)
    assert shelf.current is before
    assert not settled(shelf)
    path.write_text(ONE)
    assert settled(shelf), "mending it is a change again"
    assert isinstance(shelf.reload(), Loaded)


def test_a_file_that_is_gone_changes_nothing_and_is_reported_once(path: Path) -> None:
    shelf = shelf_of(path)
    before = shelf.current
    path.unlink()
    assert settled(shelf)
    result = shelf.reload()
    assert isinstance(result, Rejected)
    assert [str(mistake) for mistake in result.mistakes] == [f"{path}:1:1: the file cannot be read: No such file or directory"]
    assert shelf.current is before
    assert not settled(shelf)


def test_a_file_caught_half_written_is_not_taken_for_a_smaller_one(path: Path) -> None:
    """The first half of a file can be a valid file with half of its rules."""
    shelf = shelf_of(path)
    whole = TWO.replace("]\n", ", {name: three, max_tokens: {cap: 3}}]\n")
    for written in (HEAD, HEAD + "policies: []\n", whole):
        path.write_text(written)
        assert not shelf.changed()
    assert shelf.changed()
    shelf.reload()
    assert [policy.name for policy in shelf.current.policies] == ["two", "three"]


def test_a_rewrite_of_the_same_length_at_the_same_time_is_seen(path: Path) -> None:
    shelf = shelf_of(path)
    times = path.stat()
    path.write_text(TWO.replace("two", "six"))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert settled(shelf)


def mount(folder: Path, version: str, **files: str) -> None:
    """What a kubelet does: a new folder, and the `..data` link renamed over the old one."""
    real = folder / f"..{version}"
    real.mkdir()
    for name, text in files.items():
        (real / name).write_text(text)
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path("..data") / name)
    (folder / "..data_tmp").symlink_to(real.name)
    (folder / "..data_tmp").rename(folder / "..data")


def test_a_mounted_config_map_is_followed_through_its_link(tmp_path: Path) -> None:
    mount(tmp_path, "2026_1", policy=ONE)
    shelf = shelf_of(tmp_path / "policy")
    mount(tmp_path, "2026_2", policy=TWO)
    assert settled(shelf)
    assert isinstance(shelf.reload(), Loaded)
    assert [policy.name for policy in shelf.current.policies] == ["two"]


def test_a_rotated_secret_makes_a_new_set_of_the_same_version(tmp_path: Path) -> None:
    mount(tmp_path, "2026_1", key="sk-old\n", policy=SECRET)
    shelf = shelf_of(tmp_path / "policy")
    before = shelf.current
    mount(tmp_path, "2026_2", key="sk-new\n", policy=SECRET)
    assert settled(shelf)
    result = shelf.reload()
    assert isinstance(result, Loaded)
    assert result.replaced == shelf.current.version == before.version
    assert (before.upstreams["a"].api_key, shelf.current.upstreams["a"].api_key) == ("sk-old", "sk-new")


def test_a_secret_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "policy").write_text(ONE)
    shelf = shelf_of(tmp_path / "policy")
    (tmp_path / "policy").write_text(SECRET)
    assert settled(shelf)
    assert isinstance(shelf.reload(), Rejected)
    assert not settled(shelf)
    (tmp_path / "key").write_text("sk-new")
    assert settled(shelf)
    assert isinstance(shelf.reload(), Loaded)


def test_a_secret_that_turns_into_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "policy").write_text(SECRET)
    (tmp_path / "key").write_text("sk-old")
    shelf = shelf_of(tmp_path / "policy")
    (tmp_path / "key").unlink()
    os.mkfifo(tmp_path / "key")
    assert settled(shelf)
    assert isinstance(shelf.reload(), Rejected)
    assert shelf.current.upstreams["a"].api_key == "sk-old"


@pytest.mark.parametrize("text", [BROKEN, ""])
def test_there_is_nothing_to_start_with_but_a_right_file(path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(PolicyFileError):
        shelf_of(path)
    with pytest.raises(PolicyFileError, match="cannot be read"):
        shelf_of(path / "nowhere")


def test_a_shelf_says_what_is_in_force(path: Path) -> None:
    shelf = Shelf(kinds=KINDS, env={}, upstream=UPSTREAM)
    assert repr(shelf) == "<Shelf empty watching 0 files>"
    shelf.load(path)
    assert repr(shelf) == f"<Shelf {shelf.current.version} watching 1 files>"
