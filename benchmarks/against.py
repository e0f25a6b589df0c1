"""This checkout's commands beside another commit's: scoring, a study, generation and compiling, in turn, in one run.

    python benchmarks/against.py REV --model FOLDER --data lambada_openai=F [--rounds 5] [--limit 40] [--only study]

REV is checked out beside; both run the same commands of `jaxpaint`, each in processes of its own, first the one and
then the other, round by round. Figures are medians over the rounds; the ratio, this checkout's time to the other's,
is taken round by round. Below 1 this one is faster. Wall seconds count only on a quiet machine; the processor's
seconds, all threads together, bear some company.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
STUDY = ["--strategies", "skip,reverse,parallel,looped-parallel", "--starts", "4,8,11"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", metavar="REV", help="the other commit")
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder of 24 layers or more")
    parser.add_argument("--data", required=True, metavar="lambada_openai=FILE", help="local data of the scored task")
    parser.add_argument("--limit", type=int, default=40, help="documents of a plan (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: %(default)s)")
    parser.add_argument("--only", help="one of scoring, study, generation, compiling")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder, "other")
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(other), options.revision], cwd=ROOT, check=True)
        try:
            figures = _measure(options, {"this": ROOT, "other": other}, Path(folder))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _measure(options, trees: dict[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    figures = {}
    for name in ("scoring", "study", "generation", "compiling"):
        if options.only not in (None, name):
            continue
        seconds: dict[str, list[tuple[float, float]]] = {tree: [] for tree in trees}
        for number in range(options.rounds + 1):  # the first fills the caches
            # By turns, so that neither is always second.
            for tree in list(trees)[:: 1 if number % 2 else -1]:
                arguments = _commands(options, folder / f"{tree}-{name}-{number}.sqlite")[name]
                found = _run(trees[tree], folder / tree, arguments, keeps_code=name != "compiling")
                seconds[tree] += [found] * (number > 0)
        figures[name] = _summary(seconds["this"], seconds["other"])
        print(f"{name:10}", "  ".join(f"{key} {value:.3f}" for key, value in figures[name].items()), flush=True)
    return figures


def _commands(options, store: Path) -> dict[str, list[str]]:
    model, scored = ["--model", str(options.model), "--dtype", "float32"], ["--data", options.data, "--bos", "off"]
    tasks = ["--tasks", "lambada_openai", *scored]
    few = ["--limit", str(max(1, options.limit // 4))]
    compare = [word for plan in ("0-23", "0-7 {8-15} 16-23", "0-11 20-23") for word in ("--compare", plan)]
    return {
        "scoring": ["eval", *model, *tasks, "--limit", str(options.limit)],
        "study": ["study", *model, *tasks, *few, *STUDY, "--store", str(store)],
        "generation": ["generate", *model, "--prompt", "Once upon a time", "--max-new-tokens", "96", *compare],
        "compiling": [
            "logits",
            *model,
            "--text",
            "The capital of France is",
            "--plan",
            "0-7 {8-15}*2 {(16 17) 18} 19-23",
        ],
    }


def _run(tree: Path, caches: Path, arguments: list[str], *, keeps_code: bool) -> tuple[float, float]:
    """Wall and processor seconds of a command of a checkout, with caches of its own."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "JAXPAINT_CACHE": str(caches)}
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "true" if keeps_code else "false"
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "jaxpaint.cli", *arguments]
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{tree}: {' '.join(arguments)}\n{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _summary(this: list[tuple[float, float]], other: list[tuple[float, float]]) -> dict[str, float]:
    found = {}
    for kind, name in enumerate(("wall", "processor")):
        ours, theirs = [pair[kind] for pair in this], [pair[kind] for pair in other]
        ratios = [ours / theirs for ours, theirs in zip(ours, theirs, strict=True)]
        found |= {f"{name} s": statistics.median(ours), f"{name} ratio": statistics.median(ratios)}
    return found


if __name__ == "__main__":
    main()
