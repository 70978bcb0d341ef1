"""Every command on streams that are full, closed, gone, or of an encoding that lacks the letters to be printed."""

import os
from pathlib import Path

import pytest
from helpers import processes

# Standard output or standard error in place of which the command gets something else.
RUN = """
import os, sys
what, number, *sys.argv = sys.argv[1:]
if what == "pipe":
    reader, writer = os.pipe()
    os.close(reader)
else:
    writer = os.open(what, os.O_WRONLY)
os.dup2(writer, int(number))
if int(number):
    setattr(sys, ("stdout", "stderr")[int(number) - 1], open(int(number), "w", closefd=False))
sys.argv.insert(0, "coadvise")
from coadvise.cli.main import main
main()
"""


def run(what: str, number: int, *arguments: str, encoding: str | None = None) -> processes.Done:
    environment = {"COLUMNS": "120", "PYTHONIOENCODING": encoding}
    return processes.run("-c", RUN, what, str(number), *arguments, environment=environment)


COMMANDS = [
    ("models", "rednet"),
    ("schema",),
    ("recipes",),
    ("recipe", "digits"),
    ("--help",),
    ("--version",),
    ("doctor",),
]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_behind_standard_output_is_one_message(command: tuple[str, ...]) -> None:
    done = run("/dev/full", 1, *command)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output cannot be written to: No space left on device")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_a_reader_that_is_gone_is_no_error_worth_a_word(command: tuple[str, ...]) -> None:
    done = run("pipe", 1, *command)
    assert (done.returncode, done.stderr) == (128 + 13, "")  # as a shell says of a command that SIGPIPE ended


@pytest.mark.parametrize("what", ["pipe", "/dev/full"])
def test_nothing_ends_because_standard_error_cannot_be_written_to(what: str, tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    done = run(what, 2, "train", "digits", f"run.output={tmp_path}", "schedule.epochs=0")
    assert (done.returncode, done.stdout) == (2, "")
    arguments = ["data.train_size=60", "data.val_size=20", "optim.batch_size=20", "schedule.epochs=1", "teachers={}"]
    arguments += ["schedule.warmup_epochs=0", "loss.weights={}", "student.model=cit_tiny", "run.tensorboard=false"]
    arguments += ["student.options={patch_size: 8, embed_dim: 16, depth: 1, num_heads: 1}"]
    done = run(what, 2, "train", "digits", f"run.output={tmp_path / 'run'}", *arguments)
    assert done.returncode == 0 and (tmp_path / "run" / "result.json").is_file() and "after epoch 1 of 1" in done.stdout


def test_letters_that_the_encoding_lacks_are_escaped() -> None:
    done = processes.run("-c", "import sys; sys.stdout.reconfigure(encoding='ascii', errors='strict');"
                         "sys.stderr.reconfigure(encoding='ascii', errors='strict');" + RUN, os.devnull, "0",
                         "train", "digits", "optim.lr=0", "schedule.epochs=0")  # fmt: skip
    assert done.returncode == 2 and "schedule.epochs is 0, must be \\u2265 1" in done.stderr


def test_no_streams_at_all() -> None:
    code = "import os, sys; sys.stdout = sys.stderr = None; sys.argv = ['coadvise', 'recipes']; "
    done = processes.run("-c", code + "from coadvise.cli.main import main; main()")
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train", "folder", "--epochs", "5"],
            "train has no option --epochs; settings are written key=value: schedule.epochs=5",
        ),
        (["train", "folder", "--epochs=5"], "schedule.epochs=5"),
        (["train", "folder", "--data", "photos"], "settings are written key=value: data.source=photos"),
        (["cache", "folder", "--batch-size", "8"], "optim.batch_size=8"),
        (["plan", "folder", "--lr"], "optim.lr=…"),
        (["recipe", "folder", "--seed", "3"], "data.seed=3 or run.seed=3"),
        (["train", "folder", "--nothing-like-it"], "No such option: --nothing-like-it; see coadvise train --help"),
        (["train"], "see coadvise train --help"),
        (["trian"], "see coadvise --help"),
        (["predict", "x.jpg"], "see coadvise predict --help"),
    ],
)
def test_options_that_are_settings_are_met(arguments: list[str], words: str) -> None:
    done = run(os.devnull, 0, *arguments)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and words in done.stderr, done.stderr
    assert done.stdout == "" and done.stderr.count("\n") == 1
