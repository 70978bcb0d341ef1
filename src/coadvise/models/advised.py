"""Advised tokens on any of timm's ViTs, pretrained or not.

A pretrained ViT was trained without advised tokens: tokens that its patches can see would change its answer before the
first step. So here they look on: in every block an advised token reads the class token, the patches and the other
advised tokens through the block's own weights, and nothing of the model reads it. The model's answer stays what it was,
bit for bit; advice reaches it through the weights that all tokens share; and what is left without the advised tokens is
the model that timm knows. (In a CiT, which is trained from scratch, all tokens see each other, as in the paper.)

Options: `separate` keeps advised tokens from reading each other. As nothing else of the model reads them, nothing of
one then reaches another, so that `direct` and `full` (`models.separate`) are the same here; only the token of a
distilled DeiT, which is one of the model's own, is read by its patches. `read_at` has heads read tokens after earlier
blocks, each through a norm of its own that starts as a copy of the model's last one.

A distilled DeiT has such a token and head already, and they become the first teacher's. timm would answer with the mean
of both heads; here the head of the class token answers alone, as in every student.

An advised token starts where the model's class token does. A model that pools its patches and has no class token lets
it start from the mean of the patch tokens, plus a learned offset. Its head starts as a copy of the model's.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.models import checkpoint
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import Beit
from timm.models.beit import Block as BeitBlock
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import Tensor, nn

from ..errors import ModelError, require
from ..names import CLASS
from ..shapes import Bool, Float
from .separate import Separate, check_separate
from .tokens import check_tokens, checked_read_at, norms_of

FAMILIES = (VisionTransformer, Eva, Beit, NaFlexVit)
"""timm's classes whose models take advised tokens."""


def why_no_tokens(model: nn.Module) -> str:
    """Why `add_tokens` refuses a model; empty where it takes it."""
    kind = type(model).__name__
    if hasattr(model, "forward_tokens"):
        return f"{kind} has tokens of its own: declare them when it is made"
    if not isinstance(model, FAMILIES):
        return f"{kind} is no ViT with a sequence of tokens (timm's VisionTransformer, Eva, Beit, NaFlexVit)"
    blocks = list(model.blocks)
    if any(isinstance(block, ParallelThingsBlock) for block in blocks):
        return f"the blocks of this {kind} (parallel things) take no attention mask"
    if isinstance(model, NaFlexVit) and getattr(model, "patch_drop", None) is not None:
        return "this NaFlexVit drops patches (patch_drop_rate), which goes with its own forward pass only"
    if getattr(model, "is_causal", False):
        return f"this {kind} has causal attention"
    return ""


def add_tokens(
    model: nn.Module,
    teachers: Mapping[str, str | None],
    *,
    separate: Separate = "none",
    read_at: Mapping[str, int] | None = None,
) -> AdvisedViT:
    """Give one of timm's ViTs an advised token and head for each teacher; its own answer stays bit for bit the same.

    Load its weights and set its image size before. The token of a distilled DeiT becomes that of the first teacher, and
    the answer that of its class head, without the head of that token.

    Args:
        teachers: advised tokens, name → bias, in order; the biases are for the record.
        separate: whether advised tokens keep apart: `none`, `direct` or `full`.
        read_at: the block after which the head of an advised token reads it, by name, counted from 1; else the last.

    Raises:
        ModelError: a model that takes no tokens, with the reason, names that tokens cannot have, or options that do not
            fit.
    """
    require(model, nn.Module, "add_tokens' model", "give a ViT of timm", ModelError)
    return AdvisedViT(model, teachers, separate, read_at)


class AdvisedViT(nn.Module):
    """A ViT of timm with advised tokens that look on; see `add_tokens`.

    Attributes:
        model: the ViT itself, as timm made it.
        teachers: advised tokens, name → bias.
        tokens: what each advised token starts from (1, 1, d): the token itself, or its offset from the patches' mean.
        advised_heads: one for each teacher.
        advised_norms: one for each token that is read before the last block.
    """

    model: Any  # timm's families have no base class that says what they share

    def __init__(
        self,
        model: nn.Module,
        teachers: Mapping[str, str | None],
        separate: Separate = "none",
        read_at: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        check_tokens(teachers)
        check_separate(separate)
        reason = why_no_tokens(model)
        if reason:
            raise ModelError(f"no advised tokens can be added: {reason}; let the teachers advise its class output")
        self.model = model
        self.teachers = dict(teachers)
        distilled = isinstance(model, VisionTransformerDistilled)
        self.own_token = next(iter(self.teachers), None) if distilled else None
        if separate == "full" and self.own_token is not None and len(self.teachers) > 1:
            raise ModelError(
                f"separate=full: '{self.own_token}' is the distilled DeiT's own token, which all its patches read: "
                "choose direct, or a ViT without a token of its own"
            )
        self.separate, self.read_at = separate, checked_read_at(read_at, self.teachers, len(self.model.blocks))
        if self.own_token in self.read_at:
            raise ModelError(
                f"read_at: '{self.own_token}' is the distilled DeiT's own token, whose head reads it after the last "
                "block: leave it out"
            )
        looking_on = [name for name in self.teachers if name != self.own_token]
        start = self._class_token()
        self.pooled = start is None
        if start is None:
            start = next(self.model.parameters()).new_zeros(1, 1, self.model.embed_dim)
        self.tokens = nn.ParameterDict({name: nn.Parameter(start.clone()) for name in looking_on})
        self.advised_heads = nn.ModuleDict()
        self._copy_heads(looking_on)
        self.advised_norms = norms_of(self.model.norm, self.read_at)

    @property
    def token_names(self) -> tuple[str, ...]:
        """Names of all outputs: `class`, then the teachers in their declared order."""
        return (CLASS, *self.teachers)

    @property
    def num_classes(self) -> int:
        return int(self.model.num_classes)

    @property
    def patch_embed(self) -> Any:
        return self.model.embeds if isinstance(self.model, NaFlexVit) else self.model.patch_embed

    @property
    def heads(self) -> dict[str, nn.Module]:
        """The head of every output by name, in the order of `token_names`."""
        own = {} if self.own_token is None else {self.own_token: self.model.head_dist}
        found = {CLASS: self.model.head, **own, **dict(self.advised_heads.items())}
        return {name: found[name] for name in self.token_names}

    def places(self, length: int) -> dict[str, int]:
        """Where each token stands in the sequence of `length` in the blocks; `class` nowhere if patches are pooled.

        The patches stand from `model.num_prefix_tokens` on, in front of the tokens that were added.
        """
        found = {CLASS: 0} if self.model.global_pool == "token" else {}
        found |= {} if self.own_token is None else {self.own_token: 1}
        found |= {name: length - len(self.advised_heads) + i for i, name in enumerate(self.advised_heads)}
        return {name: found[name] for name in self.token_names if name in found}

    def get_classifier(self) -> nn.Module:
        """The model's own head, or heads."""
        return self.model.get_classifier()  # type: ignore[no-any-return]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace every head by a fresh one; `num_classes=0` removes them."""
        self.model.reset_classifier(num_classes, global_pool)
        self._copy_heads(self.tokens)

    def _copy_heads(self, names: Iterable[str]) -> None:
        self.advised_heads.update({name: copy.deepcopy(self.model.head) for name in names})

    def set_input_size(self, *args: Any, **options: Any) -> None:
        """As timm's models: other image or patch size."""
        self.model.set_input_size(*args, **options)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.model.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not decayed: those of the model, and the tokens."""
        return {f"model.{name}" for name in self.model.no_weight_decay()} | {f"tokens.{name}" for name in self.tokens}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's layers for layer-wise rates; heads, tokens and pooling are in none and learn at the full rate."""
        inside = lambda pattern: rf"^model\.(?:{pattern.replace('^', '')})"
        own = self.model.group_matcher(coarse)
        blocks = own["blocks"]
        listed = inside(blocks) if isinstance(blocks, str) else [(inside(pattern), order) for pattern, order in blocks]
        return {"stem": inside(own["stem"] + "|rope"), "blocks": listed}

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """The model's own answer; the heads of advised tokens take no part in it, nor that of a distilled DeiT."""
        if self.own_token is None:
            answer: Tensor = self.model(x)
            return answer
        return self._own_heads(self.model.forward_features(x))[CLASS]

    def forward_tokens(self, x: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b k"]]:
        """Logits of every token by name, `class` first, then the teachers in their declared order."""
        model = self.model
        x, ropes = _embedded(model, x)
        length = x.shape[1]
        x = torch.cat([x, *self._looking_on(x)], dim=1)  # b (l+t) d
        x, early = self._through_blocks(x, length, ropes)
        x = model.norm(x)
        out = self._own_heads(x[:, :length])
        for i, (name, head) in enumerate(self.advised_heads.items()):
            if name not in early:
                out[name] = head(model.head_drop(model.fc_norm(x[:, length + i])))
        for name, token in early.items():
            out[name] = self.advised_heads[name](model.head_drop(model.fc_norm(self.advised_norms[name](token))))
        return {name: out[name] for name in self.token_names}

    def _own_heads(self, x: Float[Tensor, "b l d"]) -> dict[str, Tensor]:
        if self.own_token is None:
            return {CLASS: self.model.forward_head(x)}
        x = self.model.head_drop(x[:, :2])
        return {CLASS: self.model.head(x[:, 0]), self.own_token: self.model.head_dist(x[:, 1])}

    def _looking_on(self, x: Float[Tensor, "b l d"]) -> Iterator[Float[Tensor, "b 1 d"]]:
        """The advised tokens before the first block."""
        mean = x[:, self.model.num_prefix_tokens :].mean(1, keepdim=True) if self.pooled else None
        for name in self.advised_heads:  # by name: PyTorch sorts the parameters of a dict
            token = self.tokens[name].to(x.dtype)
            yield token.expand(x.shape[0], -1, -1) if mean is None else mean + token

    def _reads(self, length: int, total: int, device: torch.device) -> Bool[Tensor, "m m"]:
        """[i, j]: whether token i reads token j, where those from `length` on look on."""
        read = torch.ones(total, total, dtype=torch.bool, device=device)
        read[:length, length:] = False
        if self.separate != "none":
            read[length:, length:] = torch.eye(total - length, dtype=torch.bool, device=device)
            if self.own_token is not None:
                read[length:, 1] = False
        return read

    def _through_blocks(
        self, x: Float[Tensor, "b m d"], length: int, ropes: list[Tensor | None]
    ) -> tuple[Tensor, dict[str, Float[Tensor, "b d"]]]:
        """The last block's output, and the tokens that are read before, where those from `length` on look on."""
        total = x.shape[1]
        read, places = self._reads(length, total, x.device), self.places(total)
        early: dict[str, Tensor] = {}
        shared = self.model.rel_pos_bias() if getattr(self.model, "rel_pos_bias", None) is not None else None
        for number, (block, rope) in enumerate(zip(self.model.blocks, ropes, strict=True), start=1):
            if isinstance(block, BeitBlock):
                step = partial(_beit_block, block, bias=_beit_bias(block.attn, read, length, x, shared))
            elif rope is None:
                step = partial(block, attn_mask=read)
            else:
                step = partial(block, rope=_unrotated(rope, total - length), attn_mask=read)
            checkpointed = self.model.grad_checkpointing and torch.is_grad_enabled()
            x = checkpoint(step, x) if checkpointed else step(x)
            early |= {name: x[:, places[name]] for name, depth in self.read_at.items() if depth == number}
        return x, early

    @torch.no_grad()
    def _class_token(self) -> Float[Tensor, "1 1 d"] | None:
        """The model's class token as its first block gets it, with position and norm; None if it has none."""
        model = self.model
        if (model.embeds if isinstance(model, NaFlexVit) else model).cls_token is None:
            return None
        training, weight = model.training, next(model.parameters())
        patch = self.patch_embed
        height, width = getattr(patch, "img_size", None) or (4 * patch.patch_size[0], 4 * patch.patch_size[1])
        image = torch.zeros(1, getattr(model, "in_chans", 3), height, width, device=weight.device, dtype=weight.dtype)
        try:
            return _embedded(model.eval(), image)[0][:, :1].clone()
        finally:
            model.train(training)


def _embedded(model: Any, x: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b l d"], list[Tensor | None]]:
    """What the first block gets, and each block's rotary positions of the patches, if the family has such."""
    rope: Any = None
    if isinstance(model, NaFlexVit):
        embedded = model._forward_embeds(x, None, None, None)
        x, rope = embedded["patches"], embedded["rope_embeds"]
    elif isinstance(model, Eva):
        x, rope = model._pos_embed(model.patch_embed(x))
        x = model.norm_pre(x)
    elif isinstance(model, Beit):
        x = model.patch_embed(x)
        x = torch.cat([model.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = model.pos_drop(x if model.pos_embed is None else x + model.pos_embed)
    else:
        x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x))))
    mixed = getattr(model, "rope_mixed", False) or getattr(model, "rope_is_mixed", False)
    return x, list(rope) if mixed and rope is not None else [rope] * len(model.blocks)


def _unrotated(rope: Float[Tensor, "... n r"], more: int) -> Float[Tensor, "... m r"]:
    """Rotary positions (sines, then cosines) with `more` at the end that turn nothing."""
    sines, cosines = rope.chunk(2, dim=-1)
    return torch.cat([F.pad(sines, (0, 0, 0, more)), F.pad(cosines, (0, 0, 0, more), value=1.0)], dim=-1)


def _beit_bias(
    attention: BeitAttention, read: Tensor, length: int, x: Tensor, shared: Tensor | None
) -> Float[Tensor, "1 h m m"]:
    """A BEiT block's bias on the scores: its relative positions, none for added tokens, -inf for what is not read."""
    bias = torch.zeros(1, attention.num_heads, length, length, device=x.device, dtype=x.dtype)
    if attention.relative_position_bias_table is not None:
        bias = bias + attention._get_rel_pos_bias()
    if shared is not None:
        bias = bias + shared
    more = len(read) - length
    return F.pad(bias, (0, more, 0, more)).masked_fill(~read, -torch.inf)


def _beit_block(block: BeitBlock, x: Float[Tensor, "b m d"], bias: Tensor) -> Float[Tensor, "b m d"]:
    """timm's BEiT block with any bias on its scores, where timm's own takes none but its relative positions."""
    first, second = (1.0, 1.0) if block.gamma_1 is None else (block.gamma_1, block.gamma_2)
    x = x + block.drop_path1(first * _beit_attention(block.attn, block.norm1(x), bias))
    x = x + block.drop_path2(second * block.mlp(block.norm2(x)))
    return x


def _beit_attention(attention: BeitAttention, y: Float[Tensor, "b m d"], bias: Tensor) -> Float[Tensor, "b m d"]:
    b, m, _ = y.shape
    has_bias = attention.q_bias is not None
    qkv_bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias]) if has_bias else None  # type: ignore
    qkv = F.linear(y, attention.qkv.weight, qkv_bias)
    q, k, v = qkv.view(b, m, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    dropout = attention.attn_drop.p if attention.training else 0.0
    z = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype), dropout_p=dropout)
    answer: Tensor = attention.proj_drop(attention.proj(z.transpose(1, 2).reshape(b, m, -1)))
    return answer
