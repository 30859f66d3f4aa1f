"""The command line: `python -m optax_lena advise RUN.jsonl`.

In: a log of `optax_lena.metrics`. Out: the advice on the standard output,
and its figure in a file.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence

from optax_lena._advice.advice import advise
from optax_lena._advice.curve import EFFICIENCY


class _Parser(argparse.ArgumentParser):
    """Reports a wrong option in one line, without the usage in front."""

    def error(self, message: str) -> None:  # pyrefly: ignore
        self.exit(2, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: without the program's name; None: the process's own.

    Returns:
      The exit code: 0, or 2 if an option or a log is invalid, with one line on the
      standard error that says why. Warnings are such lines too.
    """
    options = _parser().parse_args(arguments)
    with warnings.catch_warnings(record=True) as told:
        code = _advise(options)
    for warning in told:
        _tell(warning.message)
    return code


def _advise(options: argparse.Namespace) -> int:
    try:
        if options.point and not options.figure:
            raise ValueError("`--point` is drawn into the figure: give `--figure` too.")
        advice = advise(
            options.run,
            base_batch=options.base_batch,
            efficiency=options.efficiency,
            seconds=dict(options.seconds) if options.seconds else None,
            until=options.until,
        )
        print(advice)
        if options.figure:
            from optax_lena.plotting import plot_advice  # Matplotlib is an extra

            plot_advice(advice, options.point).savefig(options.figure, dpi=150)
            print(f"\nFigure: {options.figure}")
    except (OSError, UnicodeError, ValueError, ImportError) as error:
        _tell(error)
        return 2
    return 0


def _tell(message: Exception | str) -> None:
    print(f"optax_lena: {' '.join(str(message).split())}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="optax_lena", description="LENA for optax.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "advise", help="say how large a batch may be, from a run's log"
    )
    _add_options(command)
    return parser


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "run",
        metavar="RUN.jsonl",
        help="a log of optax_lena.metrics: lines of JSON, or a table (.csv, .tsv)",
    )
    command.add_argument(
        "--base-batch", type=int, metavar="N", help="examples in a base batch"
    )
    command.add_argument(
        "--efficiency",
        type=float,
        default=EFFICIENCY,
        metavar="E",
        help="what an example must be worth still (default: 1/1.2, 20 %% more of them)",
    )
    command.add_argument(
        "--seconds",
        type=_pair,
        nargs="+",
        metavar="S=T",
        help="seconds per update at two batch scales or more: 1=0.12 8=0.31",
    )
    command.add_argument(
        "--until",
        type=float,
        metavar="STEP",
        help="the base step that reached the target: later entries are left out",
    )
    command.add_argument(
        "--point",
        type=_pair,
        nargs="+",
        default=[],
        metavar="S=E",
        help="measured examples over the base batch's, for the figure: 64=1.55",
    )
    command.add_argument("--figure", metavar="FILE.png", help="draw it into this file")


def _pair(text: str) -> tuple[float, float]:
    scale, _, value = text.partition("=")
    try:
        return float(scale), float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be two numbers like 8=0.31, got {text!r}"
        ) from None


if __name__ == "__main__":
    sys.exit(main())
