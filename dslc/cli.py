"""The command line, `dslc train | eval | run | generate | inspect | import | export | compile | bench | profile | doctor`: results to standard
output, all else to standard error."""

from __future__ import annotations

import math
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from .commands.show import emit, listening, numbers, say
from .core.errors import DataError, Error, NameError_

INTERRUPTED = 130  # the exit status after Ctrl-C

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

Spec = Annotated[str, typer.Argument(help="a model file (.dsl, .yaml, .onnx) or a run folder")]
Set = Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="a dim, a let or a train key")]
Target = Annotated[str | None, typer.Option(help="cpu, cuda, ... (dslc doctor lists them); default: what a run was trained on, else cpu")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line on standard output")]
Weights = Annotated[str | None, typer.Option(help="a .safetensors or .npz file, or a run folder")]
Map = Annotated[str | None, typer.Option(help="rules that rename, transpose or split foreign weights")]
Tune = Annotated[str | None, typer.Option(metavar="DURATION", help="first measure schedules of the kernels, for 60s, 2m, ...: kept for this device")]
Program = Annotated[str, typer.Option(help="run, eval, train, step, accumulate, prefill or decode")]


def _version(asked: bool) -> None:
    if asked:
        from . import __version__

        print(f"dslc {__version__}")
        raise typer.Exit


@app.callback()
def dslc(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version and end")] = False) -> None:
    """A declarative neural-network compiler: results to standard output, all else to standard error."""


def overrides(given: list[str]) -> dict[str, Any]:
    """`--set name=value` as a mapping; values stay text of the language."""
    out = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.strip().isidentifier() or not value.strip():
            raise NameError_(f"--set takes name=value, this is '{text}'")
        out[name.strip()] = value.strip()
    return out


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def duration(text: str | None) -> float | None:
    """Seconds of `60s`, `2m`, `1h`, or of a number of seconds."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *([a-z]*)", text.strip().lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found and found[2] in _UNITS else 0.0
    if not 0 < seconds < 1e9:
        raise DataError(f"--tune takes a duration, this is '{text}'", help="as 60s, 2m, 1h, or a number of seconds above 0")
    return seconds


@app.command()
def train(
    spec: Spec,
    set: Set = [],  # noqa: B006
    target: Target = None,
    run: Annotated[str | None, typer.Option(help="the run folder (default: runs/NAME)")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the folder's last checkpoint")] = False,
    steps: Annotated[int | None, typer.Option(help="as --set steps=N")] = None,
    seed: Annotated[int | None, typer.Option(help="as --set seed=N")] = None,
    weights: Weights = None,
    map: Map = None,
    loss: Annotated[str | None, typer.Option(help="of an .onnx graph: cross_entropy, mse, ... of its first output and the column 'target'")] = None,
    data: Annotated[str | None, typer.Option(help="with --loss: an .npz or .csv file, or a data source")] = None,
    optimizer: Annotated[str | None, typer.Option(help="with --loss (default: adam(lr=1e-3))")] = None,
    freeze: Annotated[list[str], typer.Option(help="with --loss: a pattern of parameters that stay as they are")] = [],  # noqa: B006
    tune: Tune = None,
    json: Json = False,
) -> None:
    """Train a model file, or with --loss an .onnx graph, into a run folder."""
    from .commands.fit import fit_of
    from .commands.train import Interrupted
    from .commands.train import train as command

    fit = fit_of(loss, data, optimizer, freeze)
    given = overrides(set)
    for name, value in (("steps", steps), ("seed", seed)):
        if value is not None and name in given:
            raise NameError_(f"--{name} and --set {name}=... say the same: give one of them")
        given |= {name: value} if value is not None else {}
    seconds = duration(tune)
    with listening(json) as told:
        result = command(spec, overrides=given, target=target, run=run, resume=resume, weights=weights, map=map, fit=fit, tune=seconds, listener=told)
    if isinstance(result, Interrupted):
        say(f"interrupted: {result.how_to_resume}")
        sys.exit(INTERRUPTED)
    best = f", best held-out {result.best:.4f} at step {result.best_step}" if result.best is not None else ""
    loss = f"loss {result.loss:.4f}" if math.isfinite(result.loss) else "nothing was left to do (--set steps=N makes a run longer)"
    say(f"{type(result).__name__.lower()} after {result.step} steps in {result.seconds:.1f} s: {loss}{best}; in {result.folder}")


@app.command("eval")
def evaluate(
    spec: Spec,
    set: Set = [],  # noqa: B006
    target: Target = None,
    weights: Weights = None,
    map: Map = None,
    best: Annotated[bool, typer.Option("--best", help="the best checkpoint of the run, not the last")] = False,
    json: Json = False,
) -> None:
    """Losses and metrics on held-out data."""
    from .commands.evaluate import evaluate as command

    found = command(spec, overrides=overrides(set), target=target, weights=weights, map=map, best=best, note=say)
    if json:
        emit("evaluated", rows=found.rows, **found.values)
    else:
        print(f"{numbers(found.values)}   ({found.rows} rows)")


@app.command()
def run(
    spec: Spec,
    input: Annotated[str, typer.Option(help="an .npz file with an array for each input")],
    output: Annotated[str | None, typer.Option(help="an .npz file for the outputs")] = None,
    set: Set = [],  # noqa: B006
    target: Target = None,
    weights: Weights = None,
    map: Map = None,
    json: Json = False,
) -> None:
    """A model's outputs for inputs from a file."""
    from .commands.run import run as command

    results = command(spec, input, output=output, overrides=overrides(set), target=target, weights=weights, map=map, note=say)
    for name, array in results.items():
        if json:
            emit("output", name=name, shape=list(array.shape), dtype=str(array.dtype), values=array if array.size <= 1000 else None)
        else:
            print(f"{name} {array.dtype}{list(array.shape)}" + (f" = {array.tolist()}" if array.size <= 16 else ""))


@app.command()
def generate(
    run: Annotated[str, typer.Argument(help="a run folder")],
    prompt: Annotated[str, typer.Option(help="the text to go on from")] = "",
    length: Annotated[int | None, typer.Option(help="tokens to make")] = None,
    temperature: Annotated[float | None, typer.Option(help="divides the logits: below 1 the likely becomes likelier")] = None,
    top_k: Annotated[int | None, typer.Option(help="draw among the most probable so many")] = None,
    top_p: Annotated[float | None, typer.Option(help="draw among the most probable that together have this probability")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="always the most probable token")] = False,
    seed: Annotated[int | None, typer.Option(help="of the draws: the same seed, the same text")] = None,
    set: Set = [],  # noqa: B006
    target: Target = None,
    json: Json = False,
) -> None:
    """Text from a trained model, as it comes. What is not given is as the model's generate block says."""
    from .commands.generate import generate as command

    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    chosen = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if greedy and chosen:
        raise DataError(f"--greedy takes the most probable token, {' and '.join(chosen)} would draw one")
    begun: list[str] = []

    def show(piece: str) -> None:
        sys.stdout.write(piece if begun else prompt + piece)
        sys.stdout.flush()
        begun.append(piece)

    given = overrides(set)
    method, shown = ("greedy" if greedy else None), (None if json else show)
    text = command(run, prompt=prompt, length=length, overrides=given, seed=seed, target=target, method=method, listener=shown, note=say, **options)
    if json:
        emit("generated", prompt=prompt, text=text)
    else:
        sys.stdout.write("\n" if begun else prompt + "\n")


@app.command()
def inspect(
    spec: Spec,
    program: Program = "run",
    after: Annotated[str | None, typer.Option(help="print the module after this pass")] = None,
    trace: Annotated[str | None, typer.Option(help="a folder for one file a pass and a page of differences")] = None,
    html: Annotated[str | None, typer.Option(help="write report.html of the program here")] = None,
    set: Set = [],  # noqa: B006
    target: Target = None,
    json: Json = False,
) -> None:
    """What a model is, and what the compiler makes of it."""
    from .commands import inspect as commands

    model, default = commands.prepared(spec, overrides(set))
    target = target or default
    if trace is not None:
        files = commands.trace(model, program, target, Path(trace))
        _written(json, files[0].parent, [*files, Path(trace) / "index.html"])
    if html is not None:
        from .report import write_report

        write_report(model, target, Path(html), program)
        _written(json, Path(html), [Path(html)])
    if after is not None:
        text = commands.module_text(model, program, target, after)
        emit("module", program=program, after=after, text=text) if json else print(text)
    if trace is None and html is None and after is None:
        found = commands.summary(model, program, target)
        emit("model", **found) if json else _print_summary(found)


def _written(json: bool, place: Path, files: list[Path]) -> None:
    if json:
        emit("written", files=files)
    else:
        say(f"written: {place}" + (f", {len(files)} files" if len(files) > 1 else ""))


def _print_summary(found: dict[str, Any]) -> None:
    print(f"{found['model']}: {found['parameter_count']:,} parameters")
    for name, count in found["modules"].items():
        print(f"  {name:32} {count:>12,}")
    print(f"program {found['program']}: {len(found['kernels'])} kernels")
    for k in found["kernels"]:
        print(f"  {k['role']:32} {k['kind']:9} x{k['runs']:<4} {k['schedule']:10} {k['lines']}")
    if memory := found["memory"]:
        print(
            f"memory: {memory['arena']:,} bytes of arena (no packing needs fewer than {memory['arena_bound']:,}), {memory['ports']:,} bytes of ports"
        )
        if "plan" in memory:
            print(f"  {memory['plan']}")
    for name, lines in found["notes"].items():
        print(f"{name}:")
        for line in lines:
            print(f"  {line}")


@app.command("import")
def import_graph(
    spec: Annotated[str, typer.Argument(help="an .onnx file")],
    out: Annotated[str | None, typer.Option("-o", "--out", help="write a model file that uses the graph as a layer")] = None,
    set: Set = [],  # noqa: B006
    json: Json = False,
) -> None:
    """What an ONNX graph is: ports, dims, operators, parameters; every gap where it cannot be imported."""
    from .commands.onnx import inspect_graph, write_spec

    found = inspect_graph(spec, overrides(set))
    emit("graph", **found) if json else _print_graph(found)
    if out is not None:
        _written(json, Path(out), [write_spec(spec, overrides(set), Path(out))])


def _print_graph(found: dict[str, Any]) -> None:
    print(f"{found['model']}: {', '.join(f'{d} {v}' for d, v in found['opsets'].items())}; {len(found['parameters'])} parameters")
    for title, rows in (("inputs", found["inputs"]), ("dims", found["dims"]), ("operators", found["operators"]), ("parameters", found["parameters"])):
        print(title)
        for name, text in rows.items():
            print(f"  {name:32} {text}")
    print(f"outputs\n  {', '.join(found['outputs'])}")


@app.command()
def export(
    spec: Spec,
    out: Annotated[str, typer.Option("-o", "--out", help="the .onnx file to write")],
    set: Set = [],  # noqa: B006
    weights: Weights = None,
    map: Map = None,
    json: Json = False,
) -> None:
    """Write a model's outputs, with its weights, as an ONNX graph."""
    from .commands.opening import open_model
    from .onnx_export import export as command

    model, _ = open_model(spec, overrides(set), None, weights, map, note=say)
    _written(json, Path(out), [command(model, Path(out))])


@app.command()
def compile(
    spec: Spec,
    out: Annotated[str, typer.Option("-o", "--out", help="the folder to write")],
    program: Program = "run",
    set: Set = [],  # noqa: B006
    target: Target = None,
    weights: Weights = None,
    map: Map = None,
    tune: Tune = None,
    json: Json = False,
) -> None:
    """Compile a program into a folder: the executable, plan.json, report.html, kernels of a GPU; with the weights of a run, of an ONNX file or of
    --weights it is a package that runs alone."""
    from .commands.build import build
    from .commands.opening import has_weights, known_program, open_model, tune_first, with_length

    seconds = duration(tune)
    model, target = open_model(spec, overrides(set), target, weights, map)
    with listening(json) as told:
        tune_first(with_length(model), [known_program(program)], target, seconds, told, at_bounds=False)
    _written(json, Path(out), build(model, program, target, Path(out), has_weights(spec, weights)))


@app.command()
def bench(
    spec: Spec,
    program: Annotated[str | None, typer.Option(help="one program alone (default: run, step and decode, where the model has them)")] = None,
    seconds: Annotated[float, typer.Option(help="of calls that are timed")] = 1.0,
    set: Set = [],  # noqa: B006
    target: Target = None,
    tune: Tune = None,
    json: Json = False,
) -> None:
    """How long a model takes to compile, with and without the cache, how long a call, and the memory: on drawn inputs."""
    from dataclasses import asdict

    from .commands import bench as commands

    given, tuned = overrides(set), duration(tune)
    with listening(json) as told:
        found = commands.bench(spec, program=program, overrides=given, target=target, seconds=seconds, tune=tuned, listener=told)
    if not json:
        print(commands.table(found))
        return
    for figures in found:
        emit("bench", **asdict(figures))


@app.command()
def profile(
    spec: Spec,
    program: Annotated[str | None, typer.Option(help="one of those that inspect takes (default: step where the model trains, else run)")] = None,
    trace: Annotated[str | None, typer.Option(help="write the launches here, for Perfetto (Chrome trace events)")] = None,
    html: Annotated[str | None, typer.Option(help="write report.html with the times here")] = None,
    seconds: Annotated[float, typer.Option(help="of calls that are timed")] = 1.0,
    set: Set = [],  # noqa: B006
    target: Target = None,
    weights: Weights = None,
    map: Map = None,
    tune: Tune = None,
    json: Json = False,
) -> None:
    """Where the time of a call goes: by kernel and by line, with shares of what the machine can do."""
    from .commands import profile as commands

    given, tuned = overrides(set), duration(tune)
    with listening(json) as told:
        model, found = commands.measure(
            spec, program=program, overrides=given, target=target, weights=weights, map=map, seconds=seconds, tune=tuned, listener=told
        )
    figures = commands.figures(model, found)
    emit("profile", **figures) if json else print(commands.table(figures))
    if trace is not None:
        commands.write_trace(found, Path(trace))
        _written(json, Path(trace), [Path(trace)])
    if html is not None:
        commands.write_page(model, found, Path(html))
        _written(json, Path(html), [Path(html)])


@app.command()
def doctor(json: Json = False) -> None:
    """What is installed, which targets work here, and why not."""
    from .commands.doctor import examine

    found = examine()
    if json:
        emit("doctor", **found)
        return
    for key in ("python", "system", "processor", "threads", "cache"):
        print(f"{key:10} {found[key]}")
    for part in ("targets", "packages"):
        print(part)
        for name, text in found[part].items():
            print(f"  {name:16} {text}")


def main(arguments: list[str] | None = None) -> None:
    """The entry point. It always ends with SystemExit: 0; 2 after a mistake of the user, told without a traceback; 130 after Ctrl-C; 1 for a bug
    of dslc. With --json an error is an object on standard output too."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _note
            status = app(words, prog_name="dslc", standalone_mode=False)
        sys.stdout.flush()
    except Error as error:
        status = _told(error, words)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:  # whoever read the output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 0
    except MemoryError:
        status = _told(DataError("there is not enough memory", help="make the batch, or the model, smaller: --set batch=N"), words)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        status = _told(DataError(f"{where}{error.strerror or error}"), words)
    except Exception as error:
        status = _other(error, words)
    if status == INTERRUPTED:
        say("interrupted")
    sys.exit(status if isinstance(status, int) else 0)


def _note(message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None) -> None:
    """dslc's own warnings are notes for people; others say where they come from."""
    say(f"note: {message}" if category is UserWarning else warnings.formatwarning(message, category, filename, lineno, line).rstrip())


def _told(error: Error, words: list[str]) -> int:
    """Says an error; the exit status of mistakes."""
    if "--json" in words:
        place = {"file": error.spans[0].file, "line": error.spans[0].line, "column": error.spans[0].column} if error.spans else {}
        emit("error", label=error.label, message=error.message, **place, notes=error.notes, help=error.help)
    text = str(error)
    say(f"\033[31m{text}\033[0m" if sys.stderr.isatty() else text)
    return 2


def _other(error: Exception, words: list[str]) -> int:
    """Errors of the command line's own parser, and bugs."""
    from .commands.usage import is_usage, usage_error

    if is_usage(error):
        if type(error).__name__ == "NoArgsIsHelpError":  # `dslc` alone
            say(error.format_message())  # type: ignore[attr-defined]
            return 2
        return _told(usage_error(error), words)
    if os.environ.get("DSLC_TRACEBACK"):
        raise error
    say(f"internal error: {type(error).__name__}: {error}\n   = this is a bug of dslc; DSLC_TRACEBACK=1 shows where")
    return 1


if __name__ == "__main__":
    main()
