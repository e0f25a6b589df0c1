"""A user's own task file is data: nothing it names is run unless it is trusted."""

import json
from pathlib import Path

import pytest
import yaml

import jaxpaint.cli
from jaxpaint.base.errors import UserError
from jaxpaint.tasks.load import build_instances, load_tasks
from jaxpaint.tasks.trust import sandboxed_templates
from tests.helpers.tiny_tasks import make_task

REACHING_OUT = [
    "{{ cycler.__init__.__globals__.os.popen('touch %s').read() }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}%s",
    "{{ lipsum.__globals__['os'].system('touch %s') }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(question) }}%s",
    "{%% set x = question.__class__ %%}{{ x('%s') }}{{ x.__base__ }}",
]


@pytest.fixture
def task_file(tmp_path):
    """A task file over three documents, with some of its settings replaced; `!function NAME` may stand in a value."""

    def write(**changes: object) -> str:
        file = Path(make_task(tmp_path, "tiny_choice"))
        config = yaml.safe_load(file.read_text()) | changes
        # A tag is written by hand: JSON is YAML, but for it.
        text = json.dumps(config)
        for value in changes.values():
            if isinstance(value, str) and value.startswith("!function "):
                text = text.replace(json.dumps(value), value)
        file.write_text(text)
        return str(file)

    return write


@pytest.mark.parametrize("template", REACHING_OUT)
@pytest.mark.parametrize("place", ["doc_to_text", "doc_to_choice", "doc_to_target"])
def test_templates_do_not_reach_the_system(tmp_path, task_file, template, place):
    touched = tmp_path / "touched"
    with pytest.raises(UserError, match=r"unsafe|document 0"):
        build_instances(load_tasks([task_file(**{place: template % touched})]))
    assert not touched.exists()


def test_ordinary_templates_and_filters_are_as_they_were():
    from lm_eval import utils

    template, document = "{{a|upper}} {% for x in b %}{{x['c']}},{% endfor %}{{a|regex_replace('l+', 'L')}}\n", {}
    document = {"a": "hello", "b": [{"c": 1}, {"c": 2}]}
    plain = utils.apply_template(template, document)
    with sandboxed_templates():
        assert utils.apply_template(template, document) == plain == "HELLO 1,2,heLo\n"


@pytest.mark.parametrize("place", ["doc_to_text", "process_docs", "process_results", "custom_dataset", "class"])
@pytest.mark.parametrize("name", ["code.run", "os.getcwd"])
def test_python_of_a_task_file_runs_only_when_trusted(tmp_path, task_file, place, name):
    (tmp_path / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef run(*_, **__): return 'x'\n")
    file = task_file(**{place: f"!function {name}"})
    with pytest.raises(UserError, match=rf"!function {name}.*was not run; load it with --trust-tasks"):
        load_tasks([file])
    assert not (tmp_path / "ran").exists()


def test_python_of_a_trusted_file_runs(tmp_path, task_file):
    (tmp_path / "code.py").write_text("def run(doc): return 'asked by code'\n")
    tasks = load_tasks([task_file(doc_to_text="!function code.run")], trust=True)
    build_instances(tasks)
    assert tasks["tasks"]["tiny_choice"].instances[0].args[0] == "asked by code"


def test_python_behind_an_include_or_in_a_folder_of_tasks_does_not_run_either(tmp_path, task_file):
    file = task_file(doc_to_text="!function code.run")
    (tmp_path / "outer.yaml").write_text(f"include: {Path(file).name}\ntask: outer\n")
    with pytest.raises(UserError, match="trust-tasks"):
        load_tasks([str(tmp_path / "outer.yaml")])
    with pytest.raises(UserError, match="trust-tasks"):
        load_tasks(["tiny_choice"], include_path=tmp_path)


def test_a_metric_that_would_be_fetched_is_refused(tmp_path, task_file):
    folder = tmp_path / "metric"
    folder.mkdir()
    (folder / "metric.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match=r"not lm-eval's own.*trust-tasks"):
        load_tasks([task_file(metric_list=[{"metric": str(folder), "aggregation": "mean"}])])
    assert not (tmp_path / "ran").exists()


def test_tasks_of_the_package_bring_their_own_functions(tmp_path):
    rows = [{"sentence": "Ann told _ all.", "option1": "Bo", "option2": "Cy", "answer": "1"}] * 2
    file = tmp_path / "w.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    build_instances(load_tasks(["winogrande"], data={"winogrande": {None: file}}, include_path=tmp_path))


def test_on_the_command_line(capsys, task_file):
    file = task_file(doc_to_text="!function code.run")
    arguments = ["eval", "--model", "painter-16", "--tasks", file]
    assert jaxpaint.cli.main(arguments) == 2
    assert "--trust-tasks" in capsys.readouterr().err
    assert jaxpaint.cli.main([*arguments, "--trust-tasks"]) == 2  # there is no code.py
    assert "code" in (said := capsys.readouterr().err)
    assert "trust" not in said
