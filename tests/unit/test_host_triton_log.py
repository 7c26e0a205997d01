import pytest

from rejection_server.host.errors import (
    HostError,
    ModelLoadError,
    OptionError,
    OutOfMemoryError,
    PortTakenError,
    RepositoryError,
)
from rejection_server.host.triton_log import explain_failure, is_harmless

ENSEMBLE = (
    "E1122 01:20:45.754330 6483 model_repository_manager.cc:703] \"Invalid argument: ensemble 'aaa' depends on 'echo' "
    "which has no loaded version. Model 'echo' loading failed with error: version 1 is at UNAVAILABLE state: Internal: "
    'ValueError: gone\\n\\nAt:\\n  /srv/echo/1/model.py(6): initialize\\n;"'
)
MEMBER = (
    "E1122 01:20:45.754267 6483 model_lifecycle.cc:642] \"failed to load 'echo' version 1: Internal: ValueError: gone"
    '\\n\\nAt:\\n  /srv/echo/1/model.py(6): initialize\\n"'
)
END = "error: creating server: Internal - failed to load all models"


@pytest.mark.parametrize(
    "line",
    [
        'E1122 01:16:15.274811 5029 server.cc:241] "CudaDriverHelper has not been initialized."',
        'W1122 01:16:16.721249 5029 metrics.cc:798] "DCGM unable to start: DCGM initialization error"',
        "Error: Failed to initialize NVML",
        'E1122 01:59:12.206580 9127 ensemble_scheduler.cc:1468] "unable to create stream for rejection: CUDA driver '
        'version is insufficient for CUDA runtime version"',
    ],
)
def test_lines_without_meaning(line: str) -> None:
    assert is_harmless(line, has_gpu=False)
    assert not is_harmless(line, has_gpu=True)


@pytest.mark.parametrize("has_gpu", [False, True])
def test_two_equal_answers_for_the_cache_are_no_error(has_gpu: bool) -> None:
    line = (
        'E1126 11:20:46.582544 19071 ensemble_scheduler.cc:1083] "Failed to insert key [131123322506891594] into '
        "response cache: key '131123322506891594' already exists\""
    )
    assert is_harmless(line, has_gpu=has_gpu)
    assert not is_harmless(line.replace("already exists", "is too large"), has_gpu=has_gpu)


@pytest.mark.parametrize(
    "line",
    [
        'E1122 01:16:15.274811 5029 server.cc:241] "CudaDriverHelper has failed."',
        'E1122 01:59:12.206580 9127 ensemble_scheduler.cc:1468] "unable to create stream for rejection: out of memory"',
        'W1122 01:16:15.274811 5029 x.cc:1] "Unable to allocate pinned system memory: out of memory"',
        "",
    ],
)
def test_lines_to_show(line: str) -> None:
    assert not is_harmless(line, has_gpu=False)


def test_the_member_is_to_blame_not_the_ensemble() -> None:
    error = explain_failure([ENSEMBLE, MEMBER, END])
    assert isinstance(error, ModelLoadError)
    assert (error.model, error.reason) == ("echo", "ValueError: gone")
    assert str(error) == "model 'echo' could not be loaded: ValueError: gone"


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (
            [
                "[libprotobuf ERROR /x/text_format.cc:337] Error parsing text-format inference.ModelConfig: 5:15: No.",
                'E1122 01:19:39.462848 6051 model_repository_manager.cc:1460] "Poll failed for model directory '
                "'echo': failed to read text proto from r/echo/config.pbtxt\"",
                END,
            ],
            ModelLoadError,
            r"'echo' could not be loaded: failed to read text proto from \S+ \(line 5, column 15: No.\)",
        ),
        (
            [
                "E1122 01:19:40.480661 6058 model_repository_manager.cc:724] \"failed to load model 'echo': at least "
                "one version must be available under the version policy of model 'echo'\""
            ],
            ModelLoadError,
            "'echo' could not be loaded: at least one version must be available",
        ),
        (
            [
                "I1122 01:19:41.517814 6073 pb_stub.cc:2105]  Failed to preinitialize Python stub: Python model file "
                "not found in 'r/echo/1/model.py'"
            ],
            RepositoryError,
            "Python model file not found in 'r/echo/1/model.py'",
        ),
        (
            [
                'E1122 01:20:56.530263 6711 main.cc:245] "failed to start GRPC service: Unavailable - Socket '
                "'127.0.0.1:18003' already in use \""
            ],
            PortTakenError,
            "127.0.0.1:18003 is already in use",
        ),
        (["/t/tritonserver: unrecognized option '--foo=1'"], OptionError, "unrecognized option '--foo=1'"),
        (['Bad option: "--exit-timeout-secs".'], OptionError, "value given to --exit-timeout-secs"),
        (
            ["terminate called after throwing an instance of 'std::system_error'", "  what():  Resource temporarily"],
            OutOfMemoryError,
            r"memory does not suffice .*there is \d+ MiB .*fewer --cores \(terminate called",
        ),
        (
            ["E1126 03:44:14.899755   28970 thd.cc:157] pthread_create failed: Resource temporarily unavailable"],
            OutOfMemoryError,
            r"or a limit of processes is reached \(ulimit -u.*\(pthread_create failed\)",
        ),
        (
            [MEMBER.replace("ValueError: gone", "RuntimeError: std::bad_alloc"), END],
            OutOfMemoryError,
            r"there is \d+ MiB .*allow more, or give fewer --cores \(std::bad_alloc\)",
        ),
        (["error: creating server: Internal - no"], HostError, "could not start: creating server: Internal - no"),
    ],
)
def test_causes(lines: list[str], kind: type[HostError], words: str) -> None:
    error = explain_failure(lines)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error


def test_no_cause() -> None:
    assert explain_failure(['I1122 01:16:15.277335 5029 model_lifecycle.cc:472] "loading: echo:1"']) is None
