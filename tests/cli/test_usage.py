"""Mistyped words: exit status 2, the nearest known word, and nothing on standard output."""

import re

import pytest

from dslc.commands.usage import is_usage, usage_error

MISTAKES = [
    (["trian", "x.dsl"], "usage error: no such command 'trian'; did you mean 'train'?"),
    (["Train", "x.dsl"], "usage error: no such command 'Train'; did you mean 'train'?"),
    (
        ["zzz"],
        "usage error: no such command 'zzz'\n"
        "   = help: the commands are bench, compile, doctor, eval, export, generate, import, inspect, profile, run, train",
    ),
    (["train", "x.dsl", "--stepz", "3"], "usage error: no such option '--stepz'; did you mean '--steps'?\n   = help: dslc train --help"),
    (["generate", "runs/x", "--temp", "3"], "usage error: no such option '--temp'; did you mean '--temperature'?"),
    (["inspect", "x.dsl", "--qqqq"], "usage error: no such option '--qqqq'\n"),
    (["inspect", "x.dsl", "-z"], "usage error: no such option '-z'"),
    (["--verson"], "usage error: no such option '--verson'; did you mean '--version'?"),
    (["train"], "usage error: missing argument 'spec'"),
    (["run", "x.dsl"], "usage error: missing option '--input'"),
    (["compile", "x.dsl"], "usage error: missing option '-o'"),
    (["train", "x.dsl", "y.dsl"], "usage error: got unexpected extra argument"),
    (["train", "x.dsl", "--run"], "usage error: option '--run' requires an argument"),
    (["train", "x.dsl", "--steps", "many"], "usage error: invalid value for '--steps'"),
    (["generate", "runs/x", "--top-p", "half"], "usage error: invalid value for '--top-p'"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_mistyped(cli, words, message):
    outcome = cli(*words)
    assert (outcome.status, outcome.out) == (2, "")
    assert message.lower() in outcome.err.lower()


def test_json_tells_errors_too(cli):
    (event,) = cli("train", "x.dsl", "--json", "--stepz", 3).events
    assert (event["event"], event["label"]) == ("error", "usage error")
    assert event["message"] == "no such option '--stepz'; did you mean '--steps'?"
    outcome = cli("inspect", "none.dsl", "--json")
    assert outcome.status == 2 and outcome.events[0]["label"] == "data error"


def test_no_command_shows_the_commands(cli):
    outcome = cli()
    assert outcome.status in (0, 2) and "inspect" in outcome.out + outcome.err  # typer's parsers differ


def test_help_and_version(cli):
    assert cli("--help").status == 0
    assert "--resume" in cli("train", "--help").out
    assert re.fullmatch(r"dslc \d+\.\d+\.\d+\n", cli("--version").out)


def test_older_parsers():
    """The classes of the package click, which typer used up to 0.28: told by what they have, not by what they are."""

    class Command:
        def __init__(self):
            self.params, self.commands = (), {"train": None, "eval": None}

    class Context:
        command, command_path = Command(), "dslc"

    class NoSuchOption(Exception):
        exit_code, ctx, option_name = 2, Context(), "--hepl"

        def format_message(self):
            return "No such option: --hepl (Possible options: --help)"

    class UsageError(Exception):
        exit_code, ctx = 2, Context()

        def format_message(self):
            return "No such command 'evl'. Did you mean 'eval'?"

    assert is_usage(NoSuchOption()) and is_usage(UsageError()) and not is_usage(ValueError("x"))
    assert usage_error(NoSuchOption()).message == "no such option '--hepl'; did you mean '--help'?"
    assert usage_error(UsageError()).message == "no such command 'evl'; did you mean 'eval'?"


@pytest.mark.parametrize("given", ["width", "width=", "=3", "a b=3", "3=4"])
def test_set_takes_name_and_value(cli, small, given):
    outcome = cli("inspect", small, "--set", given)
    assert outcome.status == 2 and f"--set takes name=value, this is '{given}'" in outcome.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "widht=3"], "the model has no dim, let or train key 'widht'; did you mean 'width'?"),
        (["--set", "width=-1"], "negative"),
        (["--set", "width=two"], "unknown name 'two'"),
        (["--set", "batch=99999999999999999999"], "absurd"),
        (["--set", "batch=1000000000"], "the data has 48 rows, a batch takes 1000000000"),
        (["--set", "batch=0"], "a batch takes 0"),
        (["--set", "seed=-1"], "seed takes a whole number"),
        (["--steps", "0"], "steps takes a whole number above 0"),
        (["--steps", "5", "--set", "steps=6"], "--steps and --set steps=... say the same"),
        (["--target", "cpo"], "unknown target 'cpo'; did you mean 'cpu'?"),
        (["--map", "rules.txt"], "there is no --weights"),
        (["--resume", "--weights", "w.npz", "--run", "run"], "--resume goes on with the run's own weights"),
    ],
)
def test_values_that_do_not_fit(cli, small, words, message):
    outcome = cli("train", small, *words)
    assert (outcome.status, outcome.out) == (2, "") and message in outcome.err
