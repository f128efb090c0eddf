"""The command line, `dslc train | eval | run | generate | inspect | compile | doctor`: results to standard output, all else to standard error."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .commands.show import emit, listener, numbers, say
from .core.errors import Error, NameError_

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Spec = Annotated[str, typer.Argument(help="a model file (.dsl, .yaml) or a run folder")]
Set = Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="a dim, a let or a train key")]
Target = Annotated[str | None, typer.Option(help="cpu, or reference (numpy in float64)")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line on standard output")]
Weights = Annotated[str | None, typer.Option(help="a .safetensors or .npz file")]
Map = Annotated[str | None, typer.Option(help="rules that rename, transpose or split foreign weights")]


def overrides(given: list[str]) -> dict[str, Any]:
    """`--set name=value` as a mapping; values stay text of the language."""
    out = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.strip().isidentifier() or not value.strip():
            raise NameError_(f"--set takes name=value, this is '{text}'")
        out[name.strip()] = value.strip()
    return out


@app.command()
def train(
    spec: Spec,
    set: Set = [],  # noqa: B006
    target: Target = None,
    run: Annotated[str | None, typer.Option(help="the run folder (default: runs/NAME)")] = None,
    resume: Annotated[bool, typer.Option(help="go on from the folder's last checkpoint")] = False,
    steps: Annotated[int | None, typer.Option(help="as --set steps=N")] = None,
    seed: Annotated[int | None, typer.Option(help="as --set seed=N")] = None,
    weights: Weights = None,
    map: Map = None,
    json: Json = False,
) -> None:
    """Train a model file into a run folder."""
    from .commands.train import Interrupted
    from .commands.train import train as command

    given = {**overrides(set), **({"steps": steps} if steps is not None else {}), **({"seed": seed} if seed is not None else {})}
    result = command(spec, overrides=given, target=target or "cpu", run=run, resume=resume, weights=weights, map=map, listener=listener(json))
    if isinstance(result, Interrupted):
        say(f"interrupted: {result.how_to_resume}")
        raise typer.Exit(130)
    best = f", best held-out {result.best:.4f} at step {result.best_step}" if result.best is not None else ""
    say(f"{type(result).__name__.lower()} after {result.step} steps in {result.seconds:.1f} s: loss {result.loss:.4f}{best}; in {result.folder}")


@app.command("eval")
def evaluate(
    spec: Spec,
    set: Set = [],  # noqa: B006
    target: Target = None,
    weights: Weights = None,
    best: Annotated[bool, typer.Option(help="the best checkpoint of the run, not the last")] = False,
    json: Json = False,
) -> None:
    """Losses and metrics on held-out data."""
    from .commands.evaluate import evaluate as command

    found = command(spec, overrides=overrides(set), target=target, weights=weights, best=best)
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
    json: Json = False,
) -> None:
    """A model's outputs for inputs from a file."""
    from .commands.run import run as command

    results = command(spec, input, output=output, overrides=overrides(set), target=target, weights=weights)
    for name, array in results.items():
        if json:
            emit("output", name=name, shape=list(array.shape), dtype=str(array.dtype), values=array.tolist() if array.size <= 1000 else None)
        else:
            print(f"{name} {array.dtype}{list(array.shape)}" + (f" = {array.tolist()}" if array.size <= 16 else ""))


@app.command()
def generate(
    run: Annotated[str, typer.Argument(help="a run folder")],
    prompt: Annotated[str, typer.Option(help="the text to go on from")] = "",
    length: Annotated[int | None, typer.Option(help="tokens to make")] = None,
    temperature: Annotated[float | None, typer.Option()] = None,
    top_k: Annotated[int | None, typer.Option()] = None,
    top_p: Annotated[float | None, typer.Option()] = None,
    greedy: Annotated[bool, typer.Option(help="always the most probable token")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    target: Target = None,
    json: Json = False,
) -> None:
    """Text from a trained model, as it comes."""
    from .commands.generate import generate as command

    if not json:
        sys.stdout.write(prompt)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    method, show = ("greedy" if greedy else None), (None if json else _write)
    text = command(run, prompt=prompt, length=length, seed=seed, target=target, method=method, listener=show, **({} if greedy else options))
    if json:
        emit("generated", prompt=prompt, text=text)
    else:
        sys.stdout.write("\n")


def _write(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()


@app.command()
def inspect(
    spec: Spec,
    program: Annotated[str, typer.Option(help="run, eval, train or step")] = "run",
    after: Annotated[str | None, typer.Option(help="print the module after this pass")] = None,
    trace: Annotated[str | None, typer.Option(help="a folder for one file a pass and a page of differences")] = None,
    html: Annotated[str | None, typer.Option(help="write report.html of the program here")] = None,
    set: Set = [],  # noqa: B006
    target: Target = None,
    json: Json = False,
) -> None:
    """What a model is, and what the compiler makes of it."""
    from .commands import inspect as commands

    target, given = target or "cpu", overrides(set)
    if after is not None:
        print(commands.module_text(spec, program, target, after, given))
        return
    if trace is not None:
        files = commands.trace(spec, program, target, Path(trace), given)
        say(f"{len(files)} files in {trace}")
        return
    if html is not None:
        from .report import write_report

        write_report(commands._prepared(spec, given), target, Path(html), program)
        say(f"written: {html}")
        return
    found = commands.summary(spec, program, target, given)
    if json:
        emit("model", **found)
    else:
        _print_summary(found)


def _print_summary(found: dict[str, Any]) -> None:
    print(f"{found['model']}: {found['parameter_count']:,} parameters")
    for name, count in found["modules"].items():
        print(f"  {name:32} {count:>12,}")
    print(f"program {found['program']}: {len(found['kernels'])} kernels")
    for k in found["kernels"]:
        print(f"  {k['role']:32} {k['kind']:9} x{k['runs']:<4} {k['lines']}")


@app.command()
def compile(
    spec: Spec,
    out: Annotated[str, typer.Option("-o", "--out", help="the folder to write")],
    program: Annotated[str, typer.Option(help="run, eval, train or step")] = "run",
    set: Set = [],  # noqa: B006
    target: Target = None,
) -> None:
    """Compile a program into a folder: the executable, plan.json, report.html."""
    import json as jsonlib
    from dataclasses import asdict

    from .commands.inspect import _prepared
    from .compiler import compile_program
    from .core.executable import to_bytes
    from .report import page

    model = _prepared(spec, overrides(set))
    executable = compile_program(model, program, target or "cpu")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.dslx").write_bytes(to_bytes(executable))
    plan = {"ports": [{**asdict(p), "dtype": p.dtype.name} for p in executable.ports], "kernels": [asdict(k) for k in executable.kernels],
            "launches": [asdict(x) for x in executable.launches], "arena_bytes": executable.arena_bytes}  # fmt: skip
    (folder / "plan.json").write_text(jsonlib.dumps(plan, indent=1))
    (folder / "report.html").write_text(page(model, executable))
    say(f"written: {folder}/program.dslx, plan.json, report.html")


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


def main() -> None:
    """The entry point: errors of the user end with status 2 and no traceback, Ctrl-C with 130."""
    try:
        app(standalone_mode=False)
    except Error as error:
        text = str(error)
        say(f"\033[31m{text}\033[0m" if sys.stderr.isatty() else text)
        sys.exit(2)
    except (typer.Exit, typer.Abort) as error:
        sys.exit(getattr(error, "exit_code", 1))
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    except Exception as error:
        _other(error)


def _other(error: Exception) -> None:
    """Errors of the command line's own parser, and bugs."""
    import click

    if isinstance(error, click.exceptions.ClickException):
        error.show()
        sys.exit(error.exit_code)
    if isinstance(error, click.exceptions.Exit):
        sys.exit(error.exit_code)
    if os.environ.get("DSLC_TRACEBACK"):
        raise error
    say(f"internal error: {type(error).__name__}: {error}\n   = this is a bug of dslc; DSLC_TRACEBACK=1 shows where")
    sys.exit(1)


if __name__ == "__main__":
    main()
