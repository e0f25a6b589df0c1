"""The model card of an exported plan, as the hub's library reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from convert import convert, export
from convert.card import model_card
from jaxpaint.base.errors import UserError
from jaxpaint.models.checkpoint import read_manifest
from jaxpaint.plans.plan import Plan
from jaxpaint.results.plan_scores import plan_scores
from jaxpaint.results.store import MetricRow, PlanRow, Store
from tests.helpers.decoders import make_tiny
from tests.helpers.tiny_results import ENVIRONMENT, FULL, OWN, fill, make_store

HUB = {"source": "someone/model", "revision": "abc123"}
SKIP = Plan.parse("0-2 5-7")


def _scores(folder: Path, plan: Plan = SKIP):
    return plan_scores(make_store(folder / "s.sqlite"), "abc123", str(plan), "0-7")


def test_scores_stand_beside_the_full_models(tmp_path: Path) -> None:
    found = {each.task: each for each in _scores(tmp_path)}
    arc, lambada = found["arc_easy"], found["lambada_openai"]
    assert (arc.metric, arc.value, arc.full) == ("acc_norm", pytest.approx(6 / 16 + 0.104), pytest.approx(0.604))
    assert (lambada.metric, lambada.value, lambada.stderr, lambada.documents) == ("acc", 6 / 16 + 0.004, 0.0145, 4)
    with pytest.raises(UserError, match="has no score of the plan 7 for this model; score it with"):
        plan_scores(tmp_path / "s.sqlite", "abc123", "7", "0-7")


def test_the_filter_that_counts_and_equally_many_documents(tmp_path: Path) -> None:
    """Under a name that the alphabet has before the others', and beside no score of other documents."""

    def finish(store: Store, plan: PlanRow, value: float, documents: int) -> None:
        (cell,) = fill(store, plans=[plan], tasks=["lambada_openai"], finish=False)
        names = {"flexible-extract": value - 0.1, "strict-match": value}
        metrics = [MetricRow("acc", name, each, 0.01, True) for name, each in names.items()]
        how = {"status": "finished", "document_scores": [], "environment": ENVIRONMENT}
        store.finish(cell, documents=documents, metrics=metrics, **how)

    for documents, full in ((4, 0.9), (3, None)):
        with Store.open(tmp_path / f"{documents}.sqlite", create=True) as store:
            finish(store, FULL, 0.9, documents)
            finish(store, OWN, 0.7, 4)
        (found,) = plan_scores(tmp_path / f"{documents}.sqlite", "abc123", OWN.text, "0-7")
        assert (found.value, found.full) == (0.7, full)


def test_the_hubs_library_reads_it(tmp_path: Path) -> None:
    card = ModelCard(model_card("short", SKIP, HUB, _scores(tmp_path), "jaxpaint export someone/model short"))
    assert (card.data.base_model, card.data.library_name, card.data.model_name) == (
        "someone/model",
        "transformers",
        "short",
    )
    results = {(each.dataset_name, each.metric_type): each.metric_value for each in card.data.eval_results}
    assert results == {("arc_easy", "acc_norm"): pytest.approx(0.479), ("lambada_openai", "acc"): pytest.approx(0.379)}
    assert "under the layer plan `0-2 5-7`: 6 layer applications" in card.text
    assert "Weights are the source's, not trained further." in card.text
    assert "| lambada_openai | acc | 0.3790 ± 0.0145 | 0.5040 ± 0.0145 | 4 |" in card.text
    assert "jaxpaint export someone/model short" in card.text


def test_a_folder_is_named_without_its_place_and_its_licence_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "model"
    make_tiny("grouped-query").torch.save_pretrained(source)
    (source / "tokenizer.json").write_text("{}")
    (source / "README.md").write_text("---\nlicense: apache-2.0\n---\n\n# A model\n")
    store = convert(source, tmp_path / "store")
    card = ModelCard.load(export(store, tmp_path / "short", Plan.parse("0 2m 4")) / "README.md")
    assert (card.data.license, card.data.base_model) == ("apache-2.0", None)
    assert "`model` under the layer plan `0 2m 4`: 2.5 layer applications, sublayers half of one each" in card.text
    assert str(tmp_path) not in card.content
    shutil.rmtree(source)
    assert "The licence is the source's." in model_card("short", SKIP, read_manifest(store), (), None)


def test_a_card_that_cannot_be_read_has_no_licence(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [apache\n---\n")
    card = model_card("short", SKIP, {"source": str(tmp_path)}, (), None)
    assert "The licence is the source's." in card


def test_files_are_readable_as_the_users_mask_says(tmp_path: Path) -> None:
    source = tmp_path / "model"
    make_tiny("grouped-query").torch.save_pretrained(source)
    (source / "tokenizer.json").write_text("{}")
    exported = export(convert(source, tmp_path / "store"), tmp_path / "short", Plan.parse("0 4"))
    (tmp_path / "plain").write_text("")
    (tmp_path / "folder").mkdir()
    assert exported.stat().st_mode == (tmp_path / "folder").stat().st_mode
    modes = {file.name: file.stat().st_mode for file in exported.iterdir()}
    assert set(modes.values()) == {(tmp_path / "plain").stat().st_mode}, modes


def test_healed_weights_are_told_of():
    twice = [{"plan": "0-2 5-7"}, {"plan": "0 7"}]
    text = model_card("short", SKIP, {**HUB, "healed": twice}, (), None)
    assert "Weights are the source's, healed for the plan `0-2 5-7` and then `0 7`: trained to give" in text
    assert "not trained further" not in text
