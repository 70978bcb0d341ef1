"""Tokens that keep apart, and heads that read early: against timm's plain blocks on what each token may read."""

from typing import Any

import pytest
import timm
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from coadvise.errors import ModelError, RecipeError
from coadvise.evaluation.attention import attention_maps
from coadvise.models.advised import AdvisedViT, add_tokens
from coadvise.models.cit import CiT
from coadvise.models.portable import portable
from coadvise.recipe.reading import recipe_from
from coadvise.recipe.schema import Recipe, Student
from coadvise.training.student import new_student

SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "num_heads": 3, "num_classes": 5}
THREE = {"a": "conv", "b": None, "c": "inv"}


def student(depth: int = 3, **options: Any) -> CiT:
    torch.manual_seed(0)
    model = CiT(**{**SIZES, "depth": depth, "teachers": THREE, **options}).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def by_hand(model: CiT, x: Tensor, separate: str) -> list[Tensor]:
    """What each block gives, row by row: timm's plain block on the tokens that the row may read."""
    x, count, found = model._pos_embed(model.patch_embed(x)), len(model.teachers), []
    for block in model.blocks:
        plain = Block(24, 3, qkv_bias=True).double().eval()
        plain.norm1.eps = plain.norm2.eps = block.norm1.eps
        plain.load_state_dict(block.state_dict())
        rows, patches = [], list(range(1 + count, x.shape[1]))
        for i in range(x.shape[1]):
            advised = 1 <= i <= count
            if separate == "direct":
                seen = [0, *patches] if advised else [j for j in range(x.shape[1]) if j != i]
            else:
                seen = [j for j in range(x.shape[1]) if j != i] if i == 0 else patches
            seen = [i, *(j for j in seen if j != i)]
            rows.append(plain(x[:, seen])[:, 0])
        x = torch.stack(rows, dim=1)
        found.append(x)
    return found


@pytest.mark.parametrize("separate", ["direct", "full"])
@pytest.mark.parametrize("fused", [True, False])
def test_each_token_reads_what_it_may(separate: str, fused: bool) -> None:
    model, x = student(separate=separate), images()
    for block in model.blocks:
        block.attn.fused_attn = fused
    with torch.no_grad():
        last = model.norm(by_hand(model, x, separate)[-1])
        logits = model.forward_tokens(x)
        torch.testing.assert_close(model.forward_features(x), last)
        torch.testing.assert_close(model.forward_intermediates(x, [2], norm=True, output_fmt="NLC")[0], last)
        torch.testing.assert_close(model(x), logits["class"])
        for i, (name, head) in enumerate(zip(logits, [model.head, *model.advised_heads.values()], strict=True)):
            torch.testing.assert_close(logits[name], head(last[:, i]))
        model.set_grad_checkpointing()
        torch.testing.assert_close(model.forward_tokens(x)["b"], logits["b"])


@pytest.mark.parametrize(("separate", "reached"), [("none", True), ("direct", True), ("full", False)])
def test_whether_something_of_a_token_reaches_another(separate: str, reached: bool) -> None:
    """The class token reads them in any case; with `direct` patches and class token pass something on."""
    for depth in (1, 3):
        model = student(depth, separate=separate)
        logits = model.forward_tokens(images())
        gradient = {
            name: torch.autograd.grad(z.square().sum(), model.tokens["b"], retain_graph=True, allow_unused=True)[
                0
            ].any()
            for name, z in logits.items()
        }
        assert gradient["b"] and gradient["class"]
        assert gradient["a"] == gradient["c"] == (reached and (separate == "none" or depth > 1))


def test_without_separation_nothing_changes() -> None:
    plain, none = student(), student(separate="none", read_at={"a": 3})
    assert plain.state_dict().keys() == none.state_dict().keys() and type(none.blocks[0]) is Block
    assert all(
        torch.equal(z, none.forward_tokens(images())[name]) for name, z in plain.forward_tokens(images()).items()
    )


@pytest.mark.parametrize("options", [{}, {"separate": "full"}, {"drop_path_rate": 0.1, "patch_drop_rate": 0.5}])
def test_heads_read_after_their_block(options: dict[str, Any]) -> None:
    model, x = student(read_at={"a": 1, "b": 2, "c": 3}, **options), images()
    assert model.read_at == {"a": 1, "b": 2} and list(model.advised_norms) == ["a", "b"]
    seen: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, out: seen.append(out)) for block in model.blocks]
    with torch.no_grad():
        logits = model.forward_tokens(x)
        for hook in hooks:
            hook.remove()
        for i, name in enumerate(["a", "b", "c"], start=1):
            norm = model.advised_norms[name] if name != "c" else model.norm
            y = seen[i - 1][:, i]
            mean, var = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, unbiased=False)
            y = (y - mean) / (var + norm.eps).sqrt() * norm.weight + norm.bias
            torch.testing.assert_close(logits[name], model.advised_heads[name](y))
        torch.testing.assert_close(model(x), logits["class"])
        torch.testing.assert_close(model.forward_tokens(x), logits)  # the last block shortened
        model.inference = "average"
        torch.testing.assert_close(model(x), torch.stack(list(logits.values())).mean(0))
        with pytest.raises(ModelError, match="heads read tokens of several blocks"):
            model.forward_head(model.forward_features(x))
    model.train().set_grad_checkpointing()
    sum(z.square().sum() for z in model.forward_tokens(x).values()).backward()  # type: ignore[union-attr]
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.slow
def test_export_compile_and_pictures() -> None:
    model, x = student(2, separate="full", read_at={"a": 1}), images(3)
    with torch.no_grad():
        free = torch.export.export(model, (images(),), dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        torch.testing.assert_close(free(x), model(x))
        whole = torch.compile(model.forward_tokens, backend="eager", fullgraph=True)
        torch.testing.assert_close(whole(x), model.forward_tokens(x))
    maps = attention_maps(model, x)
    assert {name: tuple(grid.shape) for name, grid in maps.items()} == dict.fromkeys(["class", *THREE], (3, 2, 2))
    made = portable(model, Student(model="cit_tiny", options={k: v for k, v in SIZES.items() if k != "num_classes"}
                                   | {"depth": 2}))  # fmt: skip
    assert made.architecture == "cit_tiny"
    again = timm.create_model("cit_tiny", num_classes=5, **made.arguments).double().eval()
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again.forward_tokens(x), model.forward_tokens(x))


def test_the_picture_of_an_early_token_is_of_its_block() -> None:
    """With one block less, what was read early is read last."""
    model, x = student(2, read_at={"a": 1}), images()
    shorter = student(1)
    shorter.load_state_dict({k: v for k, v in model.state_dict().items() if k in shorter.state_dict()})
    torch.testing.assert_close(attention_maps(model, x)["a"], attention_maps(shorter, x)["a"])
    assert not torch.allclose(attention_maps(model, x)["b"], attention_maps(shorter, x)["b"])


ADDED = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224", "eva02_tiny_patch14_224",
         "naflexvit_base_patch16_gap", "vit_base_patch16_siglip_224")  # fmt: skip


def advised(name: str, teachers: dict[str, str | None], **options: Any) -> AdvisedViT:
    torch.manual_seed(0)
    patch = 14 if "patch14" in name else 16
    model = timm.create_model(name, img_size=2 * patch, depth=2, embed_dim=24, num_heads=3, num_classes=5)
    for parameter in model.parameters():
        if parameter.ndim == 1 or parameter.shape[0] == 1:
            nn.init.normal_(parameter, std=0.3)
    made = add_tokens(model.double().eval(), teachers, **options).eval()
    for key, parameter in made.named_parameters():
        if key.startswith(("tokens.", "advised_")):
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(sum(key.encode())))
    return made


@pytest.mark.parametrize("name", ADDED)
def test_an_added_token_that_keeps_apart_answers_as_if_alone(name: str) -> None:
    """Each against a ViT to which only it was added. A distilled DeiT's own token is there in any case."""
    distilled = "distilled" in name
    first = {"own": None} if distilled else {}
    both = advised(name, {**first, "a": None, "b": None}, separate="direct")
    x = torch.randn(2, 3, 32 if "patch16" in name else 28, 32 if "patch16" in name else 28, dtype=torch.float64)
    with torch.no_grad():
        out = both.forward_tokens(x)
        for one in ("a", "b"):
            alone = advised(name, {**first, one: None}, separate="direct")
            torch.testing.assert_close(out[one], alone.forward_tokens(x)[one])
            if not distilled:
                torch.testing.assert_close(out[one], advised(name, {one: None}).forward_tokens(x)[one])


def test_what_a_distilled_deits_own_token_cannot_do() -> None:
    with pytest.raises(ModelError, match="all its patches read"):
        advised("deit_tiny_distilled_patch16_224", {"own": None, "a": None}, separate="full")
    with pytest.raises(ModelError, match="leave it out"):
        advised("deit_tiny_distilled_patch16_224", {"own": None, "a": None}, read_at={"own": 1})


@pytest.mark.parametrize("name", ADDED)
def test_an_added_token_is_read_early(name: str) -> None:
    """What a ViT with the first block alone answers, its last norm being the token's own."""
    first = {"own": None} if "distilled" in name else {}
    made = advised(name, {**first, "a": None, "b": None}, read_at={"a": 1})
    x = torch.randn(2, 3, 32 if "patch16" in name else 28, 32 if "patch16" in name else 28, dtype=torch.float64)
    with torch.no_grad():
        out = made.forward_tokens(x)
        assert set(made.advised_norms) == {"a"}
        made.read_at, made.model.blocks = {}, made.model.blocks[:1]
        made.model.norm = made.advised_norms["a"]
        torch.testing.assert_close(out["a"], made.forward_tokens(x)["a"])
    assert not torch.allclose(out["b"], made.forward_tokens(x)["b"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"separate": True}, "separate is True; choose one of none, direct, full"),
        ({"separate": "full", "block_fn": Block}, "leave out block_fn"),
        ({"read_at": {"d": 1}}, "read_at names 'd', which is no advised token: they are a, b, c"),
        ({"read_at": {"a": 4}}, "read_at of 'a' is 4: give the number of a block, 1 to 3"),
        ({"read_at": {"a": True}}, "read_at of 'a' is True"),
        ({"read_at": 3}, "read_at must be a mapping"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        student(**options)


def test_another_mask_is_refused() -> None:
    with pytest.raises(ModelError, match="a mask of their own"):
        student(separate="full").forward_features(images(), attn_mask=torch.ones(8, 8, dtype=torch.bool))


def recipe(student: dict[str, Any], **loss: Any) -> Recipe:
    teachers = {name: {"model": "resnet10", "checkpoint": "none.safetensors"} for name in ("a", "b")}
    content = {"name": "x", "data": {"source": "digits", "image_size": 16}, "student": student, "teachers": teachers}
    return recipe_from(content | {"loss": loss, "schedule": {"epochs": 1, "warmup_epochs": 0}}, where="here")


KEYS = {"separate": "full", "read_at": {"a": 1}}
TINY = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


@pytest.mark.parametrize("model", ["cit_tiny", "vit_tiny_patch16_224"])
def test_a_recipe_says_it_of_all_tokens(model: str) -> None:
    student = {"model": model, "options": TINY}
    made = new_student(recipe(student | KEYS, tokens="own"), 5, 1, None, ("a", "b"))
    assert made.separate == "full" and made.read_at == {"a": 1}
    plain, same = recipe(student), recipe(student | {"separate": "none", "read_at": {}})
    assert plain.fingerprint() == same.fingerprint() and "separate" not in plain.content()["student"]
    assert plain.fingerprint() != recipe(student | {"separate": "direct"}).fingerprint()


def test_settings_without_tokens_are_refused() -> None:
    for key, value in KEYS.items():
        student = {"model": "resnet10", key: value}
        with pytest.raises(ModelError, match=rf"student.{key}: this student \(ResNet\) has no advised tokens"):
            new_student(recipe(student), 5, 1, None, ("a", "b"))
    with pytest.raises(RecipeError, match=r"student.read_at: there is no advised token 'aa' \(did you mean a"):
        recipe({"model": "cit_tiny", "read_at": {"aa": 1}})
