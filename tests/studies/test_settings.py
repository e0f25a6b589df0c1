"""Options, TOML files and presets: what they make, and what each mistake is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.base.numbers import parse_numbers
from jaxpaint.studies.settings import read_plans, spec_from
from jaxpaint.studies.spec import StudySpec

NEEDED = {"model": "m", "store": "s.sqlite", "tasks": "arc_easy"}
WHOLE = """
model = "llama2-7b"
revision = "main"
dtype = "float32"
tensor-parallel = 2
layer-parallel = 4
offload = true
tasks = ["lambada_openai", "hellaswag"]
data = ["hellaswag=a,b.jsonl"]
num-fewshot = 5
limit = 0.5
bos = "on"
strategies = ["skip", "random", "looped-parallel", "block-repeat"]
starts = "0-14/2"
seeds = 3
loops = [1, 3]
times = 4
plans = ["0-8 {9-22} * 3 23-31"]
analyses = ["similarity", "block_influence"]
analysis-samples = 7
analysis-task = "hellaswag"
store = "out/study.sqlite"
shard = "2/8"
batch-tokens = 512
"""


@pytest.fixture
def toml(tmp_path):
    """Writes a TOML file."""

    def write(text: str) -> Path:
        file = tmp_path / "study.toml"
        file.write_text(text)
        return file

    return write


class TestNumbers:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("4", (4,)),
            ("0", (0,)),
            ("0-4", (0, 1, 2, 3, 4)),
            ("0-14/7", (0, 7, 14)),
            ("0-5/2", (0, 2, 4)),
            ("3-3", (3,)),
            ("5, 1 ,3-4", (1, 3, 4, 5)),
            ("1,1,0-1", (0, 1)),
            ("1 - 3 / 2", (1, 3)),
        ],
    )
    def test_ranges(self, text, expected) -> None:
        assert parse_numbers(text) == expected

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", "'' is not a number or a range; expected numbers by commas"),
            ("1,,2", "'' is not a number"),
            ("x", "'x' is not a number"),
            ("-1", "'-1' is not a number"),
            ("1-", "'1-' is not a number"),
            ("1/2", "'1/2' is not a number"),
            ("0-4-8", "'0-4-8' is not a number"),
            ("1.5", "'1.5' is not a number"),
            ("²", "'²' is not a number"),
            ("1\n2", "is not a number"),
            ("9999999999", "'9999999999' is out of range; expected at most 2147483647"),
            ("0-9999999999/9", "'0-9999999999/9' is out of range"),
            ("4-1", "the range '4-1' runs backwards; write 1-4"),
            ("0-4/0", "the step in '0-4/0' is 0"),
            ("0-999999999", "'0-999999999' makes more than 100000 numbers"),
        ],
    )
    def test_mistakes(self, text, expected) -> None:
        with pytest.raises(UserError) as caught:
            parse_numbers(text)
        assert str(caught.value).startswith(expected) or expected in str(caught.value)


class TestSpec:
    def test_options_alone(self) -> None:
        spec = spec_from({**NEEDED, "strategies": "skip, reverse,skip", "starts": "1,3", "limit": 10.0, "bos": None})
        assert spec == StudySpec(
            "m", Path("s.sqlite"), tasks=("arc_easy",), strategies=("skip", "reverse"), starts=(1, 3), limit=10
        )
        assert isinstance(spec.limit, int)

    def test_a_file_alone(self, toml) -> None:
        assert spec_from({}, toml(WHOLE)) == StudySpec(
            model="llama2-7b",
            store=Path("out/study.sqlite"),
            tasks=("lambada_openai", "hellaswag"),
            revision="main",
            dtype="float32",
            tensor_parallel=2,
            layer_parallel=4,
            offload=True,
            data=("hellaswag=a,b.jsonl",),
            num_fewshot=5,
            limit=0.5,
            bos="on",
            strategies=("skip", "random", "looped-parallel", "block-repeat"),
            starts=(0, 2, 4, 6, 8, 10, 12, 14),
            seeds=(0, 1, 2),
            loops=(1, 3),
            times=(4,),
            plans=("0-8 {9-22}*3 23-31",),
            analyses=("similarity", "block_influence"),
            analysis_samples=7,
            analysis_task="hellaswag",
            shard=(2, 8),
            batch_tokens=512,
        )

    def test_options_go_before_the_file_and_that_before_the_preset(self, toml) -> None:
        file = toml('preset = "paper"\nmodel = "of the file"\nstore = "s"\nloops = "2"\nseeds = "5-6"\n')
        spec = spec_from({"model": "m", "loops": "4", "strategies": None}, file)
        assert (spec.model, spec.loops, spec.seeds, spec.times) == ("m", (4,), (5, 6), (2, 3))
        assert spec.bos == "off"
        assert "looped-parallel" in spec.strategies
        narrowed = spec_from({**NEEDED, "preset": "paper", "limit": 7, "bos": "on"})
        assert (narrowed.tasks, narrowed.limit, narrowed.bos) == (("arc_easy",), 7, "on")
        assert narrowed.loops == tuple(range(1, 29))

    def test_one_seed_and_many(self) -> None:
        assert spec_from({**NEEDED, "strategies": "random", "seeds": "3"}).seeds == (0, 1, 2)
        assert spec_from({**NEEDED, "strategies": "random", "seeds": "3-3"}).seeds == (3,)
        assert spec_from({**NEEDED, "strategies": "random", "seeds": "4,2"}).seeds == (2, 4)

    def test_plans_of_a_file_join_those_of_the_settings(self, toml, tmp_path) -> None:
        plans = tmp_path / "plans.txt"
        plans.write_text("# mine\n\n0-8   {9-22} # averaged\n0 1\n")
        file = toml(f"plans = ['3']\nplans-file = '{plans}'\n")
        assert spec_from(NEEDED, file).plans == ("3", "0-8 {9-22}", "0 1")

    def test_each_third_start_is_of_the_model(self) -> None:
        spec = spec_from({**NEEDED, "strategies": "skip", "starts": "/3"})
        for layers, starts in ((16, [0, 3, 6]), (32, [0, 3, 6, 9, 12, 15]), (5, [0])):
            assert [each.start for each in spec.variants(layers)[1:]] == starts

    def test_the_quick_preset(self) -> None:
        spec = spec_from({**NEEDED, "preset": "quick"})
        assert (spec.limit, spec.seeds) == (100, (0, 1, 2))
        assert set(spec.strategies) == {"skip", "middle-repeat", "reverse", "random", "parallel", "looped-parallel"}
        assert spec_from({**NEEDED, "preset": "quick", "limit": 7, "starts": "2"}).starts == (2,)

    def test_a_folder_of_data(self, tmp_path) -> None:
        for name in (
            "arc_easy.jsonl",
            "arc_easy_train.csv",
            "hellaswag_validation.jsonl.gz",
            "other.jsonl",
            "arc_easy.txt",
        ):
            (tmp_path / name).write_text("x")
        options = {**NEEDED, "tasks": "arc_easy,hellaswag", "data-dir": str(tmp_path)}
        assert spec_from(options).data == (
            *(f"arc_easy={tmp_path}/arc_easy.jsonl", f"arc_easy:train={tmp_path}/arc_easy_train.csv"),
            f"hellaswag:validation={tmp_path}/hellaswag_validation.jsonl.gz",
        )
        own = spec_from({**options, "data": ["arc_easy=mine.jsonl"]}).data
        assert own[0] == "arc_easy=mine.jsonl"
        assert f"arc_easy={tmp_path}/arc_easy.jsonl" not in own
        (tmp_path / "arc_easy.csv").write_text("x")
        for folder, tasks, expected in (
            (tmp_path, "arc_easy", "has arc_easy.csv and arc_easy.jsonl for arc_easy; leave one"),
            (tmp_path, "piqa", "has no file named after piqa, as piqa.jsonl"),
            (tmp_path / "absent", "piqa", "is not a folder"),
        ):
            with pytest.raises(UserError, match=expected):
                spec_from({**NEEDED, "tasks": tasks, "data-dir": str(folder)})

    def test_analyses_need_no_task(self) -> None:
        assert spec_from({"model": "m", "store": "s", "analyses": "variance"}).tasks == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task = ['x']", "unknown key 'task'; did you mean tasks"),
        ("num_fewshot = 1", "unknown key 'num_fewshot'; did you mean num-fewshot?"),
        ("zzz = 1", "unknown key 'zzz'; the keys are model, "),
        ("[study]\nmodel = 'm'", "unknown key 'study'"),
        ("dry-run = true", "'dry-run' belongs on the command line: --dry-run"),
        ("starts = '/0'", "starts is '/0'; expected numbers by commas"),
        ("model = m", "is not TOML: Invalid value (at line 1, column 9)"),
        ("model = 3", "model is 3; expected a text"),
        ("model = ''", "model is ''; expected a text"),
        ("dtype = 'int8'", "dtype is 'int8'; expected one of auto, float32, bfloat16"),
        ("bos = true", "bos is true; expected one of auto, on, off"),
        ("tensor-parallel = 0", "tensor-parallel is 0; expected a whole number, 1 or more"),
        ("tensor-parallel = 10000000000", "tensor-parallel is 10000000000; expected at most 2147483647"),
        ("limit = 1e300", "limit is 1e+300; expected at most 2147483647"),
        ("loops = [1000000000]", "loops is [1000000000]; expected numbers up to 1000000"),
        ("times = '2000000'", "times is '2000000'; expected numbers up to 1000000"),
        ("starts = [10000000000]", "starts is [10000000000]; expected numbers up to 2147483647"),
        ("num-fewshot = '5'", "num-fewshot is '5'; expected a whole number, 0 or more"),
        ("batch-tokens = true", "batch-tokens is true; expected a whole number"),
        ("limit = '10'", "limit is '10'; expected a number of documents per task"),
        ("limit = true", "limit is true; expected a number of documents"),
        ("limit = 0", "limit is 0; expected a number of documents"),
        ("limit = nan", "limit is nan; expected a number of documents"),
        ("limit = 2.5", "limit is 2.5; expected a whole number of documents"),
        ("tasks = 3", "tasks is 3; expected names"),
        ("tasks = ['a', 1]", "tasks is ['a', 1]; expected names"),
        ("data = 'a=b'", "data is 'a=b'; expected a list of texts"),
        ("strategies = ['skip', 'revers']", "strategies: unknown strategy 'revers': did you mean reverse"),
        (
            "analyses = ['block-influence']",
            "analyses: unknown analysis 'block-influence': did you mean block_influence?",
        ),
        ("starts = [1, -2]", "starts is [1, -2]; expected numbers from 0 on"),
        ("starts = [1, 'a']", "starts is [1, 'a']; expected numbers by commas"),
        ("starts = []", "starts is []; expected numbers from 0 on"),
        ("starts = 1.0", "starts is 1.0; expected numbers"),
        ("starts = '9-1'", "starts: the range '9-1' runs backwards"),
        ("loops = '0-3'", "loops is '0-3'; expected numbers from 1 on"),
        ("seeds = 0", "seeds is 0; expected how many seeds"),
        ("seeds = -3", "seeds is -3; expected how many seeds"),
        ("shard = '0/4'", "shard is '0/4'; expected I/N with I from 1 to N, so 1/4 to 4/4"),
        ("shard = '5/4'", "shard is '5/4'; expected I/N with I from 1 to N"),
        ("shard = '2'", "shard is '2'; expected I/N, such as 1/8"),
        ("shard = [1, 2]", "shard is [1, 2]; expected a text"),
        ("plans = '0-8'", "plans is '0-8'; expected a list of texts"),
        ("plans = ['0-8 {']", "plans: '0-8 {': plan, column 6: expected a layer"),
        ("preset = 'papper'", "preset is 'papper'; expected one of quick, paper"),
    ],
)
def test_mistakes_in_a_file_name_it_and_the_key(text, expected, toml) -> None:
    file = toml(text)
    with pytest.raises(UserError) as caught:
        spec_from({**NEEDED, "store": "s"} if "model" not in text else {}, file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model": None}, "a study needs a model; give --model"),
        ({"store": None}, "a study needs a store; give --store"),
        ({"tasks": None}, "a study needs tasks; give --tasks"),
        ({"tasks": " , "}, "a study needs tasks"),
        ({"starts": "1-a", "strategies": "skip"}, "--starts: '1-a' is not a number"),
        ({"loops": "1-28", "strategies": "parallel"}, "--loops is of strategy looped-parallel, which is not among"),
        ({"seeds": "3"}, "--seeds is of strategy random"),
        ({"times": "3", "preset": "paper", "strategies": "skip"}, "--times is of strategy block-repeat"),
        ({"starts": "3", "strategies": "skip-one,switch"}, "--starts is of strategies with a start layer"),
        ({"analysis-samples": 3}, "--analysis-samples is of analyses, and none is given"),
        ({"preset": "x"}, "--preset is 'x'; expected one of quick, paper"),
        ({"plans-file": "/no/such/file"}, "cannot read /no/such/file: No such file or directory"),
    ],
)
def test_mistakes_in_options(options, expected) -> None:
    with pytest.raises(UserError) as caught:
        spec_from({**NEEDED, **options})
    assert str(caught.value).startswith(expected)


def test_files_that_cannot_be_read(tmp_path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    empty = tmp_path / "plans.txt"
    empty.write_text("# nothing\n")
    wrong = tmp_path / "wrong.txt"
    wrong.write_text("0-3\n\n0-8 {9\n")
    for read, file, expected in (
        (lambda file: spec_from({}, file), tmp_path / "absent.toml", "No such file"),
        (lambda file: spec_from({}, file), tmp_path, "is not a regular file"),
        (lambda file: spec_from({}, file), binary, "it is not text"),
        (read_plans, binary, "it is not UTF-8 text"),
        (read_plans, tmp_path, "Is a directory"),
        (read_plans, empty, "has no plan"),
        (read_plans, wrong, "line 3: plan, column 7"),
    ):
        with pytest.raises(UserError, match=expected) as caught:
            read(file)
        assert str(file) in str(caught.value)
