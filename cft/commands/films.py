"""``cft FILE_OR_FOLDER...``: findings of chest X-rays, as a table, CSV, JSON or heat maps."""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cft import NOT_A_MEDICAL_DEVICE, __version__
from cft.commands.model import (
    UsageError,
    add_answer_options,
    add_engine_options,
    check_counts,
    load,
)
from cft.commands.prevalence import check_prevalences, prevalences
from cft.commands.table import TableError
from cft.film.find import find_films
from cft.names import written
from cft.study import RULES, group, seen_as_named

if TYPE_CHECKING:
    from cft.model.findings import Findings
    from cft.results import Result


def parse_arguments(
    arguments: Sequence[str], commands: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """The options of one run; ``commands``: what else `cft` can do, for the help."""
    parser = argparse.ArgumentParser(
        prog="cft",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Probabilities of the findings in chest X-rays (PNG, JPEG, TIFF, BMP, WebP, "
        "DICOM),\nas a table, CSV or JSON, with heat maps if wanted.",
        epilog=_about_commands(commands or {}) + textwrap.fill(NOT_A_MEDICAL_DEVICE, 80),
    )
    parser.add_argument("films", nargs="+", metavar="FILE_OR_FOLDER", type=Path)
    add_answer_options(parser)
    parser.add_argument(
        "--study",
        choices=RULES,
        help="findings of studies, of each the maximum over the frontal films: auto takes films "
        "together by DICOM study, else by a name as CheXpert, MIMIC-CXR or NIH give it; dicom, "
        "name and folder by that alone; one takes all films as one study. A table, or --json",
    )
    parser.add_argument(
        "--prevalence",
        type=prevalences,
        default={},
        metavar="NAME=N%[,...]",
        help="in a hundred such patients, how many have it: Effusion=20%%,Hernia=0.5%% adds how "
        "often a result of these findings is right among such patients",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--csv", metavar="FILE", help="write a CSV table to FILE, or to stdout for -"
    )
    output.add_argument("--json", action="store_true", help="print one JSON document")
    output.add_argument(
        "--plain", action="store_true", help="print one line `Name: 0.1234` per finding"
    )
    parser.add_argument(
        "--heatmaps",
        metavar="DIR",
        type=Path,
        help="write a PNG per film and finding above its operating point (the nearest one if "
        "none is)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="with --csv FILE: go on with the table that an earlier run began, after its last row; "
        "rows are written as they come",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="how many batches are worked on at once (default: one for each processor)",
    )
    add_engine_options(parser)
    parser.add_argument("--version", action="version", version=f"cft {__version__}")
    options = parser.parse_args(arguments)
    check_counts(parser, options)
    if options.study and (options.csv or options.plain):
        parser.error("--study gives a table or --json")
    if options.prevalence and options.plain:
        parser.error("--prevalence gives a table, --json or --csv")
    if options.resume and options.csv in (None, "-"):
        parser.error("--resume needs --csv FILE")
    return options


def _about_commands(commands: Mapping[str, str]) -> str:
    if not commands:
        return ""
    lines = "".join(f"  cft {name:<18}{line}\n" for name, line in commands.items())
    first = next(iter(commands))
    return (
        f"other commands (cft COMMAND --help says more; ./{first} is a file of that name):\n"
        f"{lines}\n"
    )


def main(arguments: Sequence[str], commands: Mapping[str, str] | None = None) -> int:
    """Read films and write what is found in them; returns the exit status.

    Parameters
    ----------
    arguments
        The command line after ``cft``.
    commands
        The other commands and a line about each, which the help shows.
    """
    options = parse_arguments(arguments, commands)
    paths = list(find_films(options.films))
    if not paths:
        return _usage_error(f"no films in {', '.join(map(str, options.films))}")

    refusal = _unwritable(options)
    if refusal:
        return _usage_error(refusal)
    try:
        from cft.model.parallel import share_processors  # heavy: the arguments are right

        # A batch or less is one piece of work, and takes all processors.
        options.jobs = share_processors(options.jobs, -(-len(paths) // options.batch_size))
        classifier = load(options)
        check_prevalences(options.prevalence, classifier.label_names)
    except KeyboardInterrupt:
        return _interrupted()
    except UsageError as error:
        return _usage_error(str(error))
    run = _Run(classifier, options)
    try:
        return run.report(paths)
    except KeyboardInterrupt:
        print("interrupted: the films after the last one shown were not read", file=sys.stderr)
        return 130
    except TableError as error:
        return _usage_error(str(error))
    except BrokenPipeError:
        raise  # nobody reads on: see `cft.__main__`
    except OSError as error:
        print(f"cannot write {error.filename or 'the result'} ({error.strerror})", file=sys.stderr)
        return 1


class _Run:
    """One run over a list of films."""

    def __init__(self, classifier, options: argparse.Namespace):
        self.classifier = classifier
        self.options = options
        self.failed = 0

    def report(self, paths: list[Path]) -> int:
        """Read every film, write what the options ask for, and return the exit status."""
        from cft import results

        if self.options.study:
            self._report_studies(paths)
        elif self.options.json:
            answer = results.document(self.classifier, self._results(paths), self.options.gate)
            print(json.dumps(answer, indent=2, ensure_ascii=False))
        elif self.options.csv:
            self._write_csv(paths)
        else:
            self._print_text(self._results(paths), several=len(paths) > 1)
        if self.options.heatmaps:
            print(f"heat maps: {self._where_heatmaps()}", file=sys.stderr)
        return 1 if self.failed else 0

    def _report_studies(self, paths: list[Path]) -> None:
        """Take films together, and write what is found in each study."""
        from cft import results
        from cft.errors import RadiographError
        from cft.model.study import Study

        gate, found = self.options.gate, list(self._results(paths))
        studies = [
            (each.name, Study.of([found[place] for place in each.films], gate))
            for each in group([(written(path), path) for path in paths], self.options.study)
        ]
        # A lateral film beside a frontal one is no failure.
        unread = sum(isinstance(result, RadiographError) for _, result in found)
        self.failed = unread + sum(study.findings is None for _, study in studies)
        if self.options.json:
            answer = results.studies(self.classifier, studies, gate)
            print(json.dumps(answer, indent=2, ensure_ascii=False))
            return
        for name, study in studies:
            print(results.study_table(name, study))
        print(f"Model: {self.classifier.name}. {NOT_A_MEDICAL_DEVICE}")

    def _results(self, paths: list[Path]) -> Iterator[tuple[str, Result]]:
        from tqdm import tqdm

        from cft import results
        from cft.errors import RadiographError
        from cft.model.parallel import stream

        films: Iterable[Any] = paths
        if self.options.study:
            films = map(seen_as_named, map(written, paths), paths)
        predicted = (
            result if isinstance(result, RadiographError) else self._asked(result)
            for result in stream(self.classifier, films, self.options.batch_size, self.options.jobs)
        )
        progress = tqdm(
            zip(paths, predicted, strict=True), total=len(paths), unit="film", leave=False,
            disable=len(paths) == 1 or not sys.stderr.isatty(),
        )  # fmt: skip
        for number, (path, result) in enumerate(progress, start=1):
            name = written(path)
            if isinstance(result, RadiographError):
                self.failed += 1
                tqdm.write(f"{name}: {result}", file=sys.stderr)
                yield name, result
                continue
            refused = results.withheld(result, self.options.gate)
            if refused:
                self.failed += 1
            self._say_gate(name, result)
            if self.options.heatmaps and not refused:
                self._write_heatmaps(number, path, result)
            yield name, result

    def _asked(self, findings: Findings) -> Findings:
        """At the operating points and among the patients that the options name."""
        return findings.at(self.options.operating_point).among(self.options.prevalence)

    def _say_gate(self, name: str, findings: Findings) -> None:
        """The reasons of the gate on stderr, unless the text that is printed has them."""
        from tqdm import tqdm

        from cft import results

        printed = not (self.options.json or self.options.csv or self.options.plain)
        lines = results.gate_lines(findings)
        if lines and self.options.gate != "off" and not printed:
            tqdm.write(f"{name}: {' '.join(lines)}", file=sys.stderr)

    def _print_text(self, named_results: Iterable[tuple[str, Result]], several: bool) -> None:
        from cft import results
        from cft.errors import RadiographError

        for name, result in named_results:
            if isinstance(result, RadiographError):
                continue  # already named on stderr
            if self.options.plain:
                if results.withheld(result, self.options.gate):
                    continue  # already named on stderr
                print((f"{name}\n" if several else "") + results.plain(result), end="")
            else:
                print(results.table(name, result, self.options.gate))
        if not self.options.plain:
            print(f"Model: {self.classifier.name}. {NOT_A_MEDICAL_DEVICE}")
            if any(category.evidence for category in self.classifier.categories.values()):
                print(results.ABOUT_EVIDENCE)

    def _write_csv(self, paths: list[Path]) -> None:
        from cft import results
        from cft.commands.table import Unfinished, write_whole

        labels, table, gate = self.classifier.label_names, self.options.csv, self.options.gate
        weights, among = self.classifier.weights_sha256, self.options.prevalence
        if not self.options.resume:
            named = self._results(paths)
            write_whole(table, results.csv_rows(labels, named, gate, weights, among))
            return
        (header,) = csv.reader(results.csv_rows(labels, (), prevalences=among))
        begun = Unfinished(table, header, labels)
        begun.check(self._read)
        self.failed += begun.failed
        left = [path for path in paths if written(path) not in begun.names]
        rows = results.csv_rows(labels, self._results(left), gate, weights, among)
        begun.go_on(islice(rows, 1, None))

    def _read(self, film: str) -> Result:
        """One film at the operating points in use."""
        from cft.errors import RadiographError

        result = next(self.classifier.stream([film]))
        return result if isinstance(result, RadiographError) else self._asked(result)

    def _where_heatmaps(self) -> str:
        """Where heat maps go, and what they are not."""
        from cft.heatmap import ABOUT_GRAD_CAM

        kind = self.classifier.heatmap_kind
        if kind is None:
            return "none, this network shows no map of features"
        return f"{self.options.heatmaps}" + (f" ({ABOUT_GRAD_CAM})" if kind == "grad-cam" else "")

    def _write_heatmaps(self, number: int, path: Path, findings) -> None:
        import cft
        from cft.heatmap import overlay, write_png

        if not self.classifier.has_heatmaps:
            return
        pixels = cft.read_radiograph(path).pixels
        for label in findings.positives or findings.order[:1]:
            # The number keeps films of the same name apart; only safe characters of the name stay.
            name = re.sub(r"[^\w.-]+", "_", f"{number:05d}-{path.stem}-{label}.png")
            picture = overlay(pixels, findings.heatmap(label), findings.operating_points[label])
            write_png(self.options.heatmaps / name, picture)


def _unwritable(options: argparse.Namespace) -> str | None:
    """Why a result could not be written in the end; asked before the first film is read."""
    table = Path(options.csv) if options.csv not in (None, "-") else None
    for place, is_folder in ((options.heatmaps, True), (table, False)):
        if place is None:
            continue
        try:
            if is_folder:
                place.mkdir(parents=True, exist_ok=True)
            elif place.is_dir():
                return f"cannot write to {place} (it is a folder)"
            tempfile.TemporaryFile(dir=place if is_folder else place.parent).close()
        except OSError as error:
            return f"cannot write to {place} ({error.strerror})"
    return None


def _interrupted() -> int:
    print("interrupted: no film was read", file=sys.stderr)
    return 130


def _usage_error(sentence: str) -> int:
    print(f"cft: {sentence}", file=sys.stderr)
    return 2
