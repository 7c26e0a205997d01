"""The log on its way to its readers: what repeats is told once a second."""

import os
import threading

from rejection_server.host.log_pump import MOST_LINES, MOST_REPEATS, Repeats, log_lines

LINE = "E1126 03:11:22.{0:06d} 1234 tcp_server_posix.cc:364] File descriptor limit reached. Retrying."


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_that_differ_in_numbers_alone_pass_ten_times_a_second() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    passed = [line for number in range(1000) for line in repeats.take(LINE.format(number))]
    assert passed == [LINE.format(number) for number in range(MOST_REPEATS)]
    assert repeats.is_holding
    clock.now = 1.0
    assert repeats.due() == [f"... repeated 990 times: {LINE.format(999)}"]
    assert not repeats.is_holding
    assert repeats.take(LINE.format(5)) == [LINE.format(5)]


def test_what_was_held_back_is_told_before_the_next_line() -> None:
    clock = Clock()
    repeats = Repeats(clock)
    for _ in range(12):
        repeats.take("again")
    clock.now = 1.5
    assert repeats.take("another") == ["... repeated 2 times: again", "another"]


def test_lines_of_all_kinds_are_bounded_too() -> None:
    repeats = Repeats(Clock())
    lines = ["".join(chr(97 + number // 26**digit % 26) for digit in range(4)) for number in range(5000)]
    assert sum(len(repeats.take(line)) for line in lines) == MOST_LINES
    assert repeats.due(now=True) == [f"... and {5000 - MOST_LINES} other lines"]


def test_a_pipe_that_is_quiet_after_a_flood_still_tells_of_it() -> None:
    reader, writer = os.pipe()
    told = threading.Event()
    lines = []

    def read() -> None:
        for line in log_lines(os.fdopen(reader, "rb", buffering=0)):
            lines.append(line)
            if "repeated" in line:
                told.set()

    thread = threading.Thread(target=read)
    thread.start()
    os.write(writer, b"over and over\n" * 50 + b"half a")
    assert told.wait(20), "though nobody writes, and nobody closes"
    os.write(writer, b" line\nthe last one has no end")
    os.close(writer)
    thread.join()
    assert lines == [
        *["over and over"] * MOST_REPEATS,
        f"... repeated {50 - MOST_REPEATS} times: over and over",
        "half a line",
        "the last one has no end",
    ]
