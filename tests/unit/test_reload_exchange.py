"""What is refused before a running Triton is asked for anything."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rejection_server.host.errors import ExchangeError
from rejection_server.names import Names
from rejection_server.reload.cli import main
from rejection_server.reload.exchange import Exchange
from rejection_server.reload.repository import ServedRepository
from support.repository import REPOSITORY


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY, tmp_path / "repository"))


def exchange(
    repository: Path, changing: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
) -> Exchange:
    """As a server has it; nobody listens at its address."""
    return Exchange(
        ServedRepository(repository, repository, repository.with_name("served")),
        "127.0.0.1:1",
        {},
        changing=changing,
        load_timeout_s=5,
    )


def silent(_said: str) -> None:
    pass


def test_a_server_begins_with_the_newest_version_and_has_none_before(repository: Path) -> None:
    made = exchange(repository)
    assert [(each["model"], each["version"], each["answers"]) for each in made.status()] == [("rejection", 1, True)]
    with pytest.raises(ExchangeError, match="no version of rejection to return to from version 1: reload takes"):
        made.rollback(None, silent)
    with pytest.raises(
        ExchangeError, match="version 1 of rejection is the one that answers, and there is no newer one"
    ):
        made.reload(None, None, silent)


def test_of_several_classifiers_one_is_named(repository: Path) -> None:
    for mine, other in zip(Names().models, Names("toxicity").models, strict=True):
        shutil.copytree(repository / mine, repository / other)
    with pytest.raises(ExchangeError, match="the server has rejection, toxicity: say which one with --model"):
        exchange(repository).reload(None, None, silent)


def test_a_repository_that_was_made_anew_is_not_mixed_with_what_is_loaded(repository: Path) -> None:
    made = exchange(repository)
    shutil.copytree(repository / "classifier" / "1", repository / "classifier" / "2")
    (repository / "classifier" / "1" / "model.onnx").unlink()
    shutil.copy(repository / "classifier" / "2" / "model.onnx", repository / "classifier" / "1")
    with pytest.raises(ExchangeError, match="the repository was made anew since rejection was loaded from it"):
        made.reload(None, None, silent)


def test_a_folder_without_a_model_is_no_version(repository: Path) -> None:
    made = exchange(repository)
    (repository / "classifier" / "2").mkdir()
    with pytest.raises(ExchangeError, match="version 2 of rejection cannot be read: No such file or directory"):
        made.reload(None, None, silent)


@pytest.mark.parametrize("version", ["0", "-1", "x"])
def test_a_version_is_a_number_from_1_up(version: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["reload", f"--version={version}"])
    assert stop.value.code == 2
    assert f"'{version}' is no version: give a number from 1 up" in capsys.readouterr().err


def test_one_exchange_at_a_time(repository: Path) -> None:
    @contextlib.contextmanager
    def changing() -> Iterator[None]:
        with pytest.raises(ExchangeError, match="another version is taking over at the moment"):
            made.rollback(None, silent)
        refused.append(True)
        yield

    refused: list[bool] = []
    made = exchange(repository, changing)
    shutil.copytree(repository / "classifier" / "1", repository / "classifier" / "2")
    with pytest.raises(ExchangeError, match="goes on answering"):
        made.reload(None, None, silent)
    assert refused


def test_what_goes_wrong_within_leaves_the_version_before(repository: Path) -> None:
    made = exchange(repository)
    shutil.copytree(repository / "classifier" / "1", repository / "classifier" / "2")
    with pytest.raises(ExchangeError, match="version 1 of rejection goes on answering: "):
        made.reload(None, None, silent)
    assert [each["answers"] for each in made.status()] == [True, False]
