"""lm-eval tasks as what the engine runs and the results store keeps: requests with identities, and their settings."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from jaxpaint.base.words import text_digest
from jaxpaint.results.kinds import GENERATION, KV
from jaxpaint.tasks.asking import USUAL, Asking
from jaxpaint.tasks.calls import in_tasks
from jaxpaint.tasks.document_texts import document_texts
from jaxpaint.tasks.load import build_instances

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance
    from lm_eval.api.task import Task
    from lm_eval.tasks.manager import TaskDict

    from jaxpaint.engine.packing import Request
    from jaxpaint.generation.cache import CacheKind
    from jaxpaint.results.document_texts import DocumentText
    from jaxpaint.tasks.encoding import Asked, Encoding

# What a task's configuration says of where its data lies, or of the number of shots, which have places of their own:
# of the data, each request's hash speaks.
NOT_SETTINGS = frozenset(
    {
        *("task", "task_alias", "tag", "metadata", "num_fewshot"),
        *("custom_dataset", "dataset_path", "dataset_name", "dataset_kwargs"),
        *("training_split", "validation_split", "test_split", "fewshot_split", "split"),
    }
)


@dataclass(frozen=True, eq=False)
class TaskRequests:
    """One task's requests, each a text to score or to continue, in the order of lm-eval's instances.

    `identities` are (document, number among the document's requests, hash of the text and of the right answer): the
    same documents give the same ones, however many more there are. `owners` says which of `instances` each request
    belongs to: a rolling text has a request for each window of the model's length. `settings` is what changes scores
    besides the model, name, version, shots and BOS. `chance` is the score of guessing, None where it is unknown.
    `keeps_texts` says whether a store may keep what people see of the documents.
    """

    name: str
    version: str
    num_fewshot: int
    bos: str
    settings: Mapping[str, Any]
    chance: float | None
    main_metric: str
    task: Task
    instances: tuple[Instance, ...]
    identities: tuple[tuple[int, int, str], ...]
    owners: tuple[int, ...]
    encoding: Encoding
    keeps_texts: bool = True

    @property
    def is_generative(self) -> bool:
        """Whether the model writes answers, rather than scores given ones."""
        return self.task.OUTPUT_TYPE == "generate_until"

    @property
    def documents(self) -> int:
        """How many documents the requests cover."""
        return len({document for document, _, _ in self.identities})

    @cached_property
    def requests(self) -> tuple[Request, ...]:
        """As tokens, one for each of `identities`. Made on first use, because a finished study needs none.

        Raises UserError as `Encoding.encode`.
        """
        return tuple(chain.from_iterable(map(self.encoding.encode, self.instances)))

    @cached_property
    def prompts(self) -> tuple[Asked, ...]:
        """Of a generative task, one for each of `identities`. Raises UserError as `Encoding.encode_prompt`."""
        return tuple(map(self.encoding.encode_prompt, self.instances))

    def document_texts(self, documents: Collection[int]) -> list[tuple[int, DocumentText]]:
        """What people see of some of the documents (`jaxpaint.tasks.document_texts`)."""
        with in_tasks():
            return list(document_texts(self.task, self.instances, documents))


def load_requests(
    encoding: Encoding,
    tasks: TaskDict,
    *,
    limit: float | None = None,
    kv: CacheKind = "exact",
    asking: Asking = USUAL,
    keeps_texts: bool = True,
) -> tuple[TaskRequests, ...]:
    """The requests of loaded tasks (`jaxpaint.tasks.load.load_tasks`), encoded on first use; `limit` as in `evaluate`.

    `kv` is the cache with which answers will be written, of which generative tasks' settings tell; `asking` is that of
    `load_tasks` and of the encoding; `keeps_texts` is as in `TaskRequests`. Raises UserError for documents that a task
    cannot read, or a limit that is not positive.
    """
    template = encoding.chat if asking.apply_chat_template else None
    build_instances(tasks, limit=limit, asking=asking, chat_template=template)
    with in_tasks():
        found = [_of_task(encoding, name, task, kv, asking) for name, task in tasks["tasks"].items()]
    return tuple(replace(each, keeps_texts=keeps_texts) for each in found)


def _of_task(encoding: Encoding, name: str, task: Task, kv: CacheKind, asking: Asking) -> TaskRequests:
    instances = tuple(task.instances)
    answers: dict[int, str] = {}
    identities, owners = [], []
    following: dict[int, int] = {}
    for index, instance in enumerate(instances):
        document = instance.doc_id
        if document not in answers:
            answers[document] = str(task.doc_to_target(instance.doc))
        content = _digest([instance.request_type, *instance.args, answers[document]])
        windows = len(encoding.encode(instance)) if instance.request_type == "loglikelihood_rolling" else 1
        for _ in range(windows):
            number = following[document] = following.get(document, -1) + 1
            identities.append((document, number, content))
            owners.append(index)
    return TaskRequests(
        name=name,
        version=str(task.VERSION),
        num_fewshot=task.get_config("num_fewshot") or 0,
        bos=encoding.bos,
        settings={
            "configuration": _digest(_plain(task.config)),
            "max_length": encoding.max_length,
            **asking.settings(name, encoding.chat_template),
            **(_of_writing(encoding, kv) if task.OUTPUT_TYPE == "generate_until" else {}),
        },
        chance=_chance(task, instances),
        main_metric=main_metric(task),
        task=task,
        instances=instances,
        identities=tuple(identities),
        owners=tuple(owners),
        encoding=encoding,
    )


def _of_writing(encoding: Encoding, kv: CacheKind) -> dict[str, Any]:
    """A checkpoint's own settings are named where it has any: without, texts are those of before they were read."""
    generation = encoding.described_generation
    return {KV: kv, **({GENERATION: generation} if generation else {})}


def _chance(task: Task, instances: Sequence[Instance]) -> float | None:
    """Of guessing among a document's choices, mean over documents; 0 where a text has to be predicted."""
    if task.OUTPUT_TYPE in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        return 0.0
    if task.OUTPUT_TYPE != "multiple_choice":
        return None
    documents = {instance.doc_id: instance.doc for instance in instances}
    return sum(1 / len(task.doc_to_choice(document)) for document in documents.values()) / len(documents)


def main_metric(task: Task) -> str:
    """The one that figures show."""
    names = list(task.aggregation())
    return next((name for name in ("acc_norm", "acc") if name in names), names[0])


def _plain(value: Any) -> Any:
    """A configuration as JSON can carry it, without what is no setting; functions by their source."""
    if is_dataclass(value) and not isinstance(value, type):
        # TaskConfig is a dict too, an empty one.
        value = asdict(value)
    if isinstance(value, Mapping):
        return {
            str(key): _plain(item) for key, item in value.items() if item is not None and str(key) not in NOT_SETTINGS
        }
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if callable(value):
        try:
            return inspect.getsource(value)
        except (TypeError, OSError):
            pass
    if value is None or isinstance(value, str | int | float | bool):
        return value
    # An object's address differs from run to run.
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


def _digest(value: Any) -> str:
    return text_digest(json.dumps(value, sort_keys=True, ensure_ascii=False, default=str))
