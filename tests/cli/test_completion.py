"""jaxpaint completion: words completed by real shells."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from jaxpaint.plans.strategies import STRATEGIES
from jaxpaint.studies.spec import ANALYSES
from jaxpaint.tasks.glue import TASKS

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")

CASES = {
    "jaxpaint stu": {"study"},
    "jaxpaint eval --strat": {"--strategy"},
    "jaxpaint eval --strategy ": set(STRATEGIES),
    "jaxpaint eval --strategy loo": {"looped-parallel"},
    "jaxpaint study --strategies ski": {"skip", "skip-one", "skip-attention", "skip-mlp"},
    "jaxpaint study --strategies skip,rev": {"skip,reverse"},
    "jaxpaint study --analysis-strategies skip,full,mid": {"skip,full,middle-repeat"},
    "jaxpaint study --analyses ": set(ANALYSES),
    "jaxpaint study --analyses variance,": {f"variance,{name}" for name in ANALYSES},
    "jaxpaint study --preset ": {"quick", "paper", "demo"},
    "jaxpaint study --tasks lambada_openai,arc": {"lambada_openai,arc_challenge"},
    "jaxpaint glue --tasks ": set(TASKS),
    "jaxpaint eval --dtype ": {"auto", "float32", "bfloat16"},
    "jaxpaint results --format l": {"latex", "lm-eval"},
    "jaxpaint completion ": {"bash", "zsh", "fish"},
}


def shell(name: str, code: str, folder) -> str:
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"no {name} here")
    done = subprocess.run([program, "-c", code], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def script(run, tmp_path):
    """Writes a shell's script and returns its path."""

    def write(name: str):
        status, out, err = run("completion", name)
        assert (status, err) == (0, "")
        file = tmp_path / f"completion.{name}"
        file.write_text(out)
        return file

    return write


def test_bash(script, tmp_path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "moments.txt").write_text("")
    cases = {**CASES, "jaxpaint eval --model mo": {"models"}, "jaxpaint report mo": {"models", "moments.txt"}}
    # A space at the end begins a word of which nothing is there yet.
    words = {line: f'{line}""' if line.endswith(" ") else line for line in cases}
    asked = "\n".join(
        f'COMP_WORDS=({typed}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _shtab_jaxpaint; echo "${{COMPREPLY[*]}}"'
        for typed in words.values()
    )
    out = shell("bash", f"source {script('bash')}\n{asked}", tmp_path)
    assert {line: set(found.split()) for line, found in zip(cases, out.splitlines(), strict=True)} == cases


def test_fish(script, tmp_path) -> None:
    asked = "\n".join(f"complete -C '{line}' | string replace -r '\\t.*' '' | string join ' '" for line in CASES)
    out = shell("fish", f"source {script('fish')}\n{asked}", tmp_path)
    assert {line: set(found.split()) for line, found in zip(CASES, out.splitlines(), strict=True)} == CASES


def test_zsh_reads_it(script, tmp_path) -> None:
    file = script("zsh")
    shell("zsh", f"source {file} 2>/dev/null; zsh -n {file}", tmp_path)
    text = file.read_text()
    assert text.startswith("#compdef jaxpaint\n")
    assert f"_values -s , strategies {' '.join(STRATEGIES)}" in text
    assert f"_values -s , analyses {' '.join(ANALYSES)}" in text


def test_a_shell_that_is_not_known(refused) -> None:
    refused("completion", "tcsh", expected=("'tcsh'", "bash"))
