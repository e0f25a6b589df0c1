"""Searches for plans of a real model at several budgets, held against plans that take no search, on unseen documents.

    python benchmarks/search.py --model smollm2 --data ../shared/assets/data --out search-results [--limit 60]

On LAMBADA, HellaSwag and ARC-Easy, half of whose documents are held out, with WinoGrande and ARC-Challenge beside them.
Held against: the model without its middle layers, Block Influence and the angular distance on texts of LAMBADA that
are not among the documents, and the best of as many random plans as --plans. All in one store, so that the greedy
search of the smallest budget is also that of the larger ones. It may be ended and begun again at any time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

SEARCHED = ("lambada_openai", "hellaswag", "arc_easy")
HELD_OUT = ("winogrande", "arc_challenge")
CALIBRATION_TEXTS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder, a store or a hub id")
    parser.add_argument("--data", type=Path, required=True, help="a folder with TASK.jsonl of each task")
    parser.add_argument("--out", type=Path, required=True, help="a folder for the store and what is drawn from it")
    parser.add_argument("--limit", type=float, default=60, help="documents of a task (default: %(default)s)")
    parser.add_argument("--plans", type=int, default=100, help="of evolution and at random (default: %(default)s)")
    parser.add_argument("--budgets", default="0.9,0.8,0.7", help="shares of the cost (default: %(default)s)")
    parser.add_argument("--methods", default="greedy,evolution,random", help="(default: %(default)s)")
    options = parser.parse_args()
    from jaxpaint.base.progress import bar, say
    from jaxpaint.report import write_report
    from jaxpaint.report.search import SearchSummary
    from jaxpaint.search.budget import Budget
    from jaxpaint.search.run import run_search
    from jaxpaint.search.spec import PROPOSALS, SearchSpec
    from jaxpaint.studies.spec import StudySpec

    options.out.mkdir(parents=True, exist_ok=True)
    study = StudySpec(
        model=options.model,
        store=options.out / "search.sqlite",
        tasks=(*SEARCHED, *HELD_OUT),
        data=tuple(f"{task}={options.data / task}.jsonl" for task in (*SEARCHED, *HELD_OUT)),
        limit=options.limit,
        dtype="float32",
        strategies=PROPOSALS,
        calibration=_calibration(options),
    )
    for share in options.budgets.split(","):
        began = time.perf_counter()
        spec = SearchSpec(
            study=study,
            budget=Budget.parse(f"cost={share}"),
            methods=tuple(options.methods.split(",")),
            held_out_tasks=HELD_OUT,
            plans=options.plans,
        )
        with bar("search") as progress:
            result = run_search(spec, tell=say, progress=progress)
        print(f"\n## cost={share}, {time.perf_counter() - began:.0f} s of this process\n\n{SearchSummary(result)}")
        sys.stdout.flush()
    print(f"\nreport: {write_report(study.store, options.out / 'report')}")


def _calibration(options: argparse.Namespace) -> Path:
    """Texts from the end of LAMBADA's file, which the limit leaves out."""
    lines = (options.data / "lambada_openai.jsonl").read_text(encoding="utf-8").splitlines()[-CALIBRATION_TEXTS:]
    file = options.out / "calibration.jsonl"
    file.write_text("".join(json.dumps({"text": json.loads(line)["text"]}) + "\n" for line in lines), encoding="utf-8")
    return file


if __name__ == "__main__":
    main()
