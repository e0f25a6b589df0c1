"""ViT against transformers: class logits under plans, states, names, export, training, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from jax.sharding import AbstractMesh
from PIL import Image
from safetensors.torch import save_file

import jaxpaint as jp
from convert import convert, export
from jaxpaint.base.errors import UserError
from jaxpaint.base.target import compiling_for
from jaxpaint.bench.programs import abstract
from jaxpaint.engine import whole
from jaxpaint.engine.program import Program
from jaxpaint.engine.rows import Inputs
from jaxpaint.models import abstract_parameters, from_dict, from_huggingface
from jaxpaint.models.dropout import Dropout
from jaxpaint.models.fields import ConfigError
from jaxpaint.models.image_processor import FILE, read_image_processor
from jaxpaint.models.sharding import DATA, MODEL, parameter_sharding
from jaxpaint.plans.plan import Plan
from jaxpaint.training.batches import labelled_batches, shuffled
from jaxpaint.training.features import pooled_features
from jaxpaint.training.images import Images
from jaxpaint.training.planned import first_parameters, planned_classifier
from jaxpaint.training.settings import ENCODER
from jaxpaint.training.tune import tune_encoder
from tests.bench.test_programs import MESHES
from tests.helpers.vision_models import (
    CLASSES,
    NUM_LAYERS,
    SIZE,
    VIT,
    make_images,
    make_vit,
    planned,
    torch_logits,
    torch_processor,
    torch_vit,
)

PLANS = [
    *("4-0", "0 {1-3}*2 4", "0 2 1 3 4", "0 {1-3} 4", "0 (1 2)*3 4", "0 {(1 {2 3}) 2} 4", "0 sum{1 2} 3 4"),
    *("0 {1@0.25 (2 3)@1.5}@0.5*2 4@-0.5", "0 1a {3a (1m 2) 4m}*2 2m@0.5 3", "3"),
]
PIXELS = np.random.default_rng(0).normal(size=(3, 3, *SIZE)).astype(np.float32)


def close(ours: Any, theirs: Any) -> None:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    return convert(make_vit(folder / "model"), folder / "store")


@pytest.fixture(scope="module")
def model(store: Path) -> jp.Model:
    return jp.load(store, dtype="float32")


def test_class_logits_are_transformers(model: jp.Model) -> None:
    expected = torch_logits(PIXELS)
    assert expected.std() > 0.5, "logits this flat would not show a difference"
    close(model.class_logits(PIXELS), expected)
    assert model.config.labels == CLASSES  # type: ignore[attr-defined]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.few(2)
def test_class_logits_under_plans_are_transformers_with_its_layers_rearranged(model: jp.Model, plan: str) -> None:
    close(model.class_logits(PIXELS, plan), torch_logits(PIXELS, Plan.parse(plan)))


@pytest.mark.slow
def test_states_are_transformers(model: jp.Model) -> None:
    with torch.no_grad():
        theirs = torch_vit()(torch.tensor(PIXELS), output_hidden_states=True).hidden_states
    ours = model.hidden_states(PIXELS)
    assert len(ours) == len(theirs) == NUM_LAYERS + 1
    for state, expected in zip(ours, theirs, strict=True):
        close(state, expected)
    run = model.run(PIXELS, "0 {1-3} 4")
    close(run.states, model.hidden_states(PIXELS, "0 {1-3} 4"))
    assert run.attention.shape == (5, 3, 4, 13, 13)


@pytest.mark.slow
def test_a_plan_written_back_is_read_by_transformers(store: Path, model: jp.Model, tmp_path: Path) -> None:
    exported = export(store, tmp_path / "exported", Plan.of([0, 3, 2, 2]))
    network, told = transformers.ViTForImageClassification.from_pretrained(exported, output_loading_info=True)
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    with torch.no_grad():
        theirs = network.eval()(torch.tensor(PIXELS)).logits
    close(model.class_logits(PIXELS, "0 3 2 2"), theirs)
    close(jp.load(convert(exported, tmp_path / "again"), dtype="float32").class_logits(PIXELS), theirs)
    assert (exported / FILE).read_bytes() == (store / "tokenizer" / FILE).read_bytes()


def test_names_in_memory_and_what_is_left_out(tmp_path: Path) -> None:
    """transformers 5 calls modules otherwise than it writes them; a pooler and a mask token are no classifier's."""
    network = transformers.ViTModel(transformers.ViTConfig(**VIT), use_mask_token=True).eval()
    network.load_state_dict(torch_vit("Model").state_dict(), strict=False)
    network.save_pretrained(tmp_path / "model")
    save_file(
        {f"vit.{name}": value for name, value in network.state_dict().items()}, tmp_path / "model/model.safetensors"
    )
    told: list[str] = []
    store = convert(tmp_path / "model", tmp_path / "store", progress=lambda line, *_: told.append(line))
    left_out = "left out vit.embeddings.mask_token; vit.pooler.dense.bias; vit.pooler.dense.weight, which are no part"
    assert any(left_out in line for line in told)
    assert any("has no image processor: the store will take pixel values only" in line for line in told)
    encoder = jp.load(store, dtype="float32")
    with torch.no_grad():
        close(encoder.pooled(PIXELS), network(torch.tensor(PIXELS)).last_hidden_state[:, 0])
    with pytest.raises(UserError, match="saved without a classifier"):
        encoder.class_logits(PIXELS)
    with pytest.raises(UserError, match=r"no image processor, because .* had no preprocessor_config\.json"):
        encoder.pooled("some.png")


def test_what_is_no_image_of_the_model(model: jp.Model, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.fromarray(np.full(SIZE, 3000, np.uint16)).save(tmp_path / "wide.png")
    Image.fromarray(np.full(SIZE, 0.5, np.float32)).save(tmp_path / "real.tiff")
    for given, told in (
        (
            np.zeros((1, 3, 24, 16), np.float32),
            r"floats \[batch, 3, 16, 24\] for this model, not float32 of .*not inter",
        ),
        (np.zeros((1, 3, *SIZE), np.int32), "not int32"),
        (str(tmp_path / "absent.png"), "no file .*absent.png"),
        (tmp_path / "broken.png", "broken.png cannot be read as an image"),
        ([tmp_path / "page.eps"], "page.eps cannot be read as an image"),
        (tmp_path / "wide.png", r"wide.png has grey values of more than 8 bits \(Pillow's mode I;16\)"),
        (tmp_path / "real.tiff", "real.tiff has grey values of more than 8 bits"),
        ([5, 6], "pixel values must be floats"),
    ):
        with pytest.raises(UserError, match=told):
            model.pooled(given)
    with pytest.raises(UserError, match="sees images and says nothing of tokens"):
        model.logits(PIXELS)
    with pytest.raises(UserError, match=r"needs a model that reads texts, and this one \(vit\) sees images"):
        _ = model.tokenizer
    with pytest.raises(UserError, match="neither lengths nor token types"):
        model.pooled(PIXELS, lengths=[3, 3, 3])


@pytest.mark.parametrize("settings", [{}, {"resample": 3, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.1]}])
def test_pixel_values_are_those_of_transformers(model: jp.Model, tmp_path: Path, settings: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    theirs = torch_processor(**settings)
    raw = {
        **json.loads(theirs.to_json_string()),
        "do_convert_rgb": None,
        "feature_extractor_type": "ViTFeatureExtractor",
    }
    ours = read_image_processor(raw, model.config)
    for name, shape in (
        ("small.png", (7, 9, 3)),
        ("large.png", (50, 41, 3)),
        ("grey.png", (20, 30)),
        ("clear.png", (9, 9, 4)),
    ):
        image = Image.fromarray(random.integers(0, 256, shape).astype(np.uint8))
        image.save(tmp_path / name)
        expected = theirs(image.convert("RGB"), return_tensors="np").pixel_values[0]
        found = ours(tmp_path / name)
        assert found.shape == expected.shape == (3, *SIZE)
        assert np.abs(found - expected).max() <= 1e-6


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"do_center_crop": True}, "sets do_center_crop=True"),
        ({"image_processor_type": "BeitImageProcessor"}, "image_processor_type='BeitImageProcessor'"),
        ({"size": {"shortest_edge": 16}}, "size={'shortest_edge': 16} is not handled"),
        ({"size": 224}, "makes images of 224 x 224 pixels, and the model sees 16 x 24: positions are not"),
        ({"resample": 9}, "resample=9 is not handled; known: 0 nearest"),
        ({"image_mean": [0.5]}, r"image_mean=\[0.5\] is not a number for each of 3"),
        ({"image_std": [1.0, 0.0, 1.0]}, "divides by 0"),
        ({"do_resize": "yes"}, "do_resize='yes' is neither true nor false"),
    ],
)
def test_settings_of_a_processor_that_are_refused(model: jp.Model, change: dict[str, Any], told: str) -> None:
    raw = json.loads(torch_processor().to_json_string())
    read_image_processor(raw, model.config)
    with pytest.raises(UserError, match=told):
        read_image_processor({**raw, **change}, model.config)


def test_config() -> None:
    raw = json.loads(torch_vit().config.to_json_string())
    config = from_huggingface(raw)
    assert (config.max_position_embeddings, config.head_dim) == (13, 8)
    assert from_dict(json.loads(json.dumps(config.to_dict()))) == config
    published = {name: raw[name] for name in ("model_type", "hidden_size", "intermediate_size", "num_hidden_layers")}
    silent: Any = from_huggingface({**published, "num_attention_heads": 4})
    assert (silent.image_size, silent.patch_size, silent.layer_norm_eps) == ((224, 224), (16, 16), 1e-12)
    assert (silent.qkv_bias, silent.hidden_act, silent.labels) == (True, "gelu", ("LABEL_0", "LABEL_1"))
    for change, named in (
        ({"image_size": 30}, r"image_size=\[30, 30\] is not a multiple of patch_size=\[4, 8\]"),
        ({"patch_size": [4, 4, 4]}, "patch_size=.* is neither a number nor"),
        ({"id2label": {"1": "a"}}, "id2label"),
        ({"num_attention_heads": 5}, "num_attention_heads=5"),
        ({"hidden_act": "tanh"}, "hidden_act='tanh'"),
        ({"use_mask_token": True}, "use_mask_token=True"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True"),
    ):
        with pytest.raises(ConfigError, match=named):
            from_huggingface({**raw, **change})


def test_every_kernel_of_layers_is_split_over_devices(model: jp.Model) -> None:
    place = parameter_sharding(AbstractMesh((1, 2), (DATA, MODEL)))
    parameters = abstract_parameters(model.config, jnp.float32)
    whole = [path for path, leaf in parameters.items() if MODEL not in place(path, leaf.shape).spec]
    assert not [path for path in whole if path.startswith("blocks/") and path.endswith("kernel")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tpu", "gpu"])
def test_programs_lower_for_accelerators(kind: str) -> None:
    """Of the shape of ViT-Base, whose 197 positions are odd."""
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    plan, config = Plan.parse("0-3 {4 5 6}*2 7-11"), from_huggingface({"model_type": "vit", **sizes})
    program = Program.of(plan)

    def array(*sizes: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct(sizes, dtype)

    with compiling_for(kind):
        base = abstract(config, MESHES[kind], jnp.bfloat16)
        inputs = Inputs(array(4, 197, 768, dtype=jnp.float32), array(4), None)
        data = array(*program.instructions.shape), array()
        text = whole.pooled.lower(base.graphdef, base.state, *data, program.room, inputs).as_text()
        assert "tensor<4x768xbf16>" in text
        assert "dot_general" in whole.hidden_states.lower(base.graphdef, base.state, plan, inputs).as_text()


# --- Training ---------------------------------------------------------------------------------------------

SETTINGS = dataclasses.replace(ENCODER, learning_rate=1e-4, epochs=1, batch_size=8, max_length=13)


@pytest.fixture(scope="module")
def images(model: jp.Model, tmp_path_factory: pytest.TempPathFactory) -> tuple[Images, np.ndarray, np.ndarray]:
    """16 images, their labels, and their pixel values."""
    folder = tmp_path_factory.mktemp("images")
    make_images(folder, 6, seed=0)
    files = tuple(sorted(folder.rglob("*.png")))[:16]
    found = Images(files, model.image_processor, model.config)
    labels = np.array([CLASSES.index(file.parent.name) for file in files], np.int32)
    return found, labels, np.stack([model.image_processor(file) for file in files])


@pytest.mark.slow
def test_features_of_images_are_what_classifiers_read(model: jp.Model, images: Any) -> None:
    found, _, pixels = images
    plans = [model.full_plan, Plan.parse("0 {1-3} 4")]
    features = pooled_features(model, found, plans, batch_tokens=13 * 5)
    for own, plan in zip(features, plans, strict=True):
        close(own, model.pooled(pixels, plan))


@pytest.mark.slow
def test_dropout_is_where_transformers_has_it(model: jp.Model, images: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same masks in both, made from nothing but a shape, at rates of their own."""

    def kept(shape: tuple[int, ...], rate: float) -> np.ndarray:
        return (np.random.default_rng(shape).random(shape) >= rate) / (1 - rate)

    def theirs(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return x * torch.tensor(kept(tuple(x.shape), p), dtype=x.dtype) if training else x

    def ours(x: jax.Array, drawn: Dropout | None) -> jax.Array:
        return x if drawn is None or not drawn.rate else x * kept(x.shape, drawn.rate).astype(x.dtype)

    found, labels, _ = images
    rates = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}
    dropping = dataclasses.replace(model, config=dataclasses.replace(model.config, **rates))  # type: ignore[type-var]
    (batch,) = next(labelled_batches(found, labels, *shuffled(16, 8, 1, seed=0))(0))
    parameters = first_parameters(dropping, 3, seed=0)
    network = _torch_classifier(parameters, **rates).train()
    monkeypatch.setattr("torch.nn.functional.dropout", theirs)
    for module in (
        "models.prenorm_encoder",
        "models.vision_encoder",
        "models.attention",
        "models.parts",
        "training.planned",
    ):
        monkeypatch.setattr(f"jaxpaint.{module}.dropout", ours)
    classifier = planned_classifier(dropping, model.full_plan)
    with_dropout = float(classifier(parameters, jax.device_put(batch), jax.random.key(0)))
    pixels = _pixels(batch.inputs.tokens)
    expected = network(torch.tensor(pixels), labels=torch.tensor(batch.targets).long()).loss.item()
    assert with_dropout == pytest.approx(expected, rel=1e-5)
    assert abs(with_dropout - float(classifier(parameters, jax.device_put(batch), None))) > 1e-3


@pytest.mark.slow
def test_fine_tuned_steps_equal_torch(model: jp.Model, images: Any) -> None:
    found, labels, every = images
    plan, first = Plan.parse("0 2-1 {3 4}"), first_parameters(model, 3, seed=0)
    network = _torch_classifier(first).double()
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=SETTINGS.learning_rate, weight_decay=0.0)
    batches = labelled_batches(found, labels, *shuffled(16, SETTINGS.batch_size, 1, seed=0))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / len(batches))
    with planned(network, plan):
        before = network.eval()(torch.tensor(every).double()).logits.detach().numpy()
        for (batch,) in batches(0):
            pixels, targets = torch.tensor(_pixels(batch.inputs.tokens)).double(), torch.tensor(batch.targets).long()
            optimizer.zero_grad()
            network.train()(pixels, labels=targets).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, SETTINGS.max_grad_norm)
            optimizer.step()
            schedule.step()
        expected = network.eval()(torch.tensor(every).double()).logits.detach().numpy()
    assert np.abs(expected - before).max() > 1e-3, "so little training would show no difference"
    tuned = tune_encoder(model, plan, found, labels, 3, 0, SETTINGS)
    np.testing.assert_allclose(tuned.logits(found), expected, rtol=0, atol=1e-5)


def _torch_classifier(parameters: Any, **rates: float) -> Any:
    """transformers' classifier of the encoder's weights, and of ours beside them."""
    network = transformers.ViTForImageClassification(
        transformers.ViTConfig(**VIT, attn_implementation="eager", **rates)
    )
    network.load_state_dict(torch_vit().state_dict())
    with torch.no_grad():
        network.classifier.weight.copy_(torch.tensor(np.asarray(parameters["classifier"]["kernel"]).T))
        network.classifier.bias.copy_(torch.tensor(np.asarray(parameters["classifier"]["bias"])))
    return network


def _pixels(patches: np.ndarray) -> np.ndarray:
    """Images of their patches of 4 x 8, 3 columns of 4."""
    grid = patches[:, 1:].reshape(len(patches), 4, 3, 8, 4, 3)  # rows, columns, wide, high, channels
    return grid.transpose(0, 5, 1, 4, 2, 3).reshape(len(patches), 3, *SIZE)
