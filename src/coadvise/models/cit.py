"""CiT, the token student (paper §3): timm's VisionTransformer with one advised token and head per teacher.

Tokens are declared as name → bias. Order: class, the teachers as declared, patches; position embeddings over all
of them. With alignment (§3.2) an advised token whose bias has a stem starts as the mean of that stem's patch
tokens; any other token is learned. Two aligned tokens of one bias also get a learned offset each, since they
would be the same token otherwise (our reading: the paper has one token per bias).

Options that are not the paper's: `separate` keeps advised tokens apart in attention (`models.separate`), and `read_at`
has the head of an advised token read it after an earlier block, through a norm of its own, as in deeply supervised nets
(Lee, Xie, Gallagher, Zhang, Tu: Deeply-Supervised Nets, AISTATS 2015; there such outputs learn the labels, here from a
teacher). Such a token goes on through the other blocks, where the class token and the patches read it.

The class head alone gives the inference logits, as the paper says; the official code averages all heads, which is
`inference="average"`. Tokens are drawn from a truncated normal: std 0.02 (`TOKEN_STD`), as §3.2 says of the
class token; `token_std` for advised tokens and offsets.
"""

import inspect
import math
import zlib
from collections.abc import Mapping
from functools import partial
from numbers import Real
from typing import Any, Literal, get_args

import torch
from timm.layers import resample_abs_pos_embed, to_2tuple, trunc_normal_
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from ..errors import ModelError
from ..names import CLASS
from ..ops.block import code
from ..ops.involution import exporting
from ..shapes import Float
from .heads import alike, heads_at_once
from .last_block import can_shorten, first_tokens
from .published import fit_cit, untrained
from .separate import Separate, SeparateBlock, check_separate
from .stems import Embedded, TokenEmbed, check_image_size
from .tokens import DEFAULT_TEACHERS, TOKEN_STD, check_tokens, checked_read_at, norms_of
from .whole_block import first_fused, fused, is_plain

Inference = Literal["class", "average"]
# Older versions of timm draw all weights anew in any case.
_KNOWS_RESET = "needs_reset" in inspect.signature(VisionTransformer.init_weights).parameters
# Options of timm's ViT that contradict what a CiT is: its outputs are its tokens, class first.
_NOT_OPTIONS = ("class_token", "reg_tokens", "no_embed_class", "pos_embed", "pool_include_prefix", "embed_layer")


class CiT(VisionTransformer):
    """Vision transformer with advised tokens.

    Args:
        teachers: advised tokens, name → bias (`conv`, `inv`, another kind, or None); empty for the class token
            alone.
        stem: what makes the patch tokens: `patchify`, or kinds of stems joined by `+` (`models.stems`); all but
            `patchify` need an even patch size.
        align: whether tokens start from the stem of their bias, where there is one.
        inference: what `forward` returns: logits of the class head, or the mean of all heads' logits.
        token_std: standard deviation from which advised tokens and offsets are drawn; their position embeddings are
            drawn as all others. Of no effect on tokens that start from a stem and have no offset.
        separate: whether advised tokens keep apart in attention: `none`, `direct` or `full`.
        read_at: the block after which the head of an advised token reads it, by name, counted from 1; else the last.
        kwargs: any other option of timm's VisionTransformer (patch_size, drop_path_rate, dynamic_img_size, …).

    Raises:
        ModelError: for token names, sizes or options that do not fit.
    """

    # A CiT always has both, where timm's ViT may have neither.
    cls_token: nn.Parameter  # type: ignore[assignment]
    pos_embed: nn.Parameter  # type: ignore[assignment]
    fused_blocks = False
    """Whether training takes a block as one operation where it can (`whole_block`)."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        *,
        teachers: Mapping[str, str | None] = DEFAULT_TEACHERS,
        stem: str = "patchify",
        align: bool = True,
        inference: Inference = "class",
        token_std: float = TOKEN_STD,
        separate: Separate = "none",
        read_at: Mapping[str, int] | None = None,
        weight_init: Literal["skip", "reset", "jax", "jax_nlhb", "moco", ""] = "",
        **kwargs: Any,
    ) -> None:
        # Before any weight is drawn: see init_weights.
        seed = _draw_seed()
        _check_options(embed_dim, num_heads, inference, token_std, kwargs)
        check_tokens(teachers)
        early = checked_read_at(read_at, teachers, depth)
        kwargs |= _block_of(separate, kwargs)
        padded = bool(kwargs.get("dynamic_img_pad", False))
        check_image_size(to_2tuple(img_size), to_2tuple(patch_size), padded=padded)
        super().__init__(
            img_size=img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            embed_layer=partial(TokenEmbed, stem=stem),
            weight_init="skip",
            **kwargs,
        )
        self.teachers = dict(teachers)
        self.inference = inference
        self.separate, self.read_at = separate, early
        for block in self.blocks:
            if isinstance(block, SeparateBlock):
                block.separate, block.advised = separate, len(self.teachers)
        self.token_std = float(token_std)
        stems = self.patch_embed.biases if align else ()
        self.aligned = {name: bias for name, bias in self.teachers.items() if bias is not None and bias in stems}
        biases = list(self.aligned.values())
        token = lambda: nn.Parameter(self.cls_token.new_empty(1, 1, embed_dim))
        self.tokens = nn.ParameterDict({n: token() for n in self.teachers if n not in self.aligned})
        self.offsets = nn.ParameterDict({n: token() for n, bias in self.aligned.items() if biases.count(bias) > 1})
        if self.token_std != TOKEN_STD and not (self.tokens or self.offsets):
            raise ModelError("token_std: this student has no advised token that is drawn; leave it out")
        self.advised_heads = nn.ModuleDict({name: self._new_head() for name in self.teachers})
        self.advised_norms = norms_of(self.norm, self.read_at)

        self.num_prefix_tokens = 1 + len(self.teachers)
        length = self.num_prefix_tokens + self.patch_embed.num_patches
        self.pos_embed = nn.Parameter(self.cls_token.new_empty(1, length, embed_dim))
        if hasattr(self.patch_drop, "num_prefix_tokens"):
            self.patch_drop.num_prefix_tokens = self.num_prefix_tokens
        self.weight_init_mode = "reset" if weight_init == "skip" else weight_init
        if weight_init != "skip":
            self.init_weights(needs_reset=False, seed=seed)

    @property
    def token_names(self) -> tuple[str, ...]:
        """Names of all outputs: `class`, then the teachers in their declared order."""
        return (CLASS, *self.teachers)

    def _new_head(self) -> nn.Module:
        if self.num_classes == 0:
            return nn.Identity()
        weight = self.cls_token
        return nn.Linear(self.embed_dim, self.num_classes, device=weight.device, dtype=weight.dtype)

    def init_weights(self, mode: str = "", needs_reset: bool = True, seed: int | None = None) -> None:
        """timm's ViT initialisation; tokens truncated normal: class std 0.02, advised tokens and offsets `token_std`.

        Students that differ in their tokens alone start, from the same seed, with the same shared weights: what is
        drawn for advised tokens comes after everything else.

        Args:
            seed: of all draws; taken from PyTorch's global generator when not given.
        """
        position, prefix = self.pos_embed, self.num_prefix_tokens
        seed = _draw_seed() if seed is None else seed
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            shared = trunc_normal_(position.new_empty(1, 1 + position.shape[1] - prefix, self.embed_dim), std=0.02)
            cls = trunc_normal_(torch.empty_like(self.cls_token), std=TOKEN_STD)
            self.pos_embed = None  # type: ignore[assignment]
            reset = {"needs_reset": needs_reset} if _KNOWS_RESET else {}
            super().init_weights(mode, **reset)  # heads of advised tokens are its last draws
            self.pos_embed = position
            self.cls_token.copy_(cls)
            position[:, :1], position[:, prefix:] = shared[:, :1], shared[:, 1:]
            for i, name in enumerate(self.teachers, start=1):
                torch.manual_seed(seed ^ zlib.crc32(name.encode()))
                trunc_normal_(position[:, i : i + 1], std=0.02)
                for token in (self.tokens, self.offsets):
                    if name in token:
                        # Scaled, since timm cuts at ±2 whatever the deviation.
                        trunc_normal_(token[name], std=TOKEN_STD).mul_(self.token_std / TOKEN_STD)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that are not decayed: position embeddings, tokens and offsets."""
        names = {"pos_embed", "cls_token", *(f"patch_embed.{n}" for n in self.patch_embed.no_weight_decay())}
        return names | {f"tokens.{n}" for n in self.tokens} | {f"offsets.{n}" for n in self.offsets}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {
            "stem": r"^cls_token|pos_embed|patch_embed|norm_pre",  # advised tokens are in none, as the heads
            "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace every head by a fresh one; `num_classes=0` removes them. Pooling stays `token` (or none, '')."""
        if global_pool not in (None, "", "token"):
            raise ModelError(f"a CiT's outputs are its tokens: global_pool is 'token' or '', not {global_pool!r}")
        super().reset_classifier(num_classes, global_pool)
        self.advised_heads = nn.ModuleDict({name: self._new_head() for name in self.teachers})
        for head in (self.head, *self.advised_heads.values()):
            if isinstance(head, nn.Linear):
                trunc_normal_(head.weight, std=0.02)
                nn.init.zeros_(head.bias)
        self.advised_heads.train(self.training)

    def _pos_embed(self, x: Embedded) -> Float[Tensor, "b l d"]:  # type: ignore[override]
        patches, position = x.patches, self.pos_embed
        if self.dynamic_img_size:
            position = resample_abs_pos_embed(
                position,
                new_size=list(patches.shape[1:3]),
                old_size=self.patch_embed.grid_size,
                num_prefix_tokens=self.num_prefix_tokens,
            )
            patches = patches.flatten(1, 2)
        batch = patches.shape[0]  # `len` would fix it for torch.export
        advised = [self._advised_token(name, x.means, batch) for name in self.teachers]
        tokens = [self.cls_token.expand(batch, -1, -1), *advised]
        return self.pos_drop(torch.cat([*tokens, patches], dim=1) + position)  # b (1+t+n) d

    def _advised_token(self, name: str, means: dict[str, Tensor], batch: int) -> Float[Tensor, "b 1 d"]:
        if name in self.tokens:
            return self.tokens[name].expand(batch, -1, -1)
        token = means[self.aligned[name]][:, None]
        return token + self.offsets[name] if name in self.offsets else token

    def forward_tokens(self, x: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b k"]]:
        """Logits of every token by name, `class` first, then the teachers in their declared order."""
        return self._heads(self._token_features(x, self.num_prefix_tokens))

    def forward(self, x: Float[Tensor, "b c h w"], *mask: Any, **options: Any) -> Tensor:
        """Inference logits (b, k); what newer versions of timm take beside the images is passed on."""
        if mask or options or self.global_pool != "token":
            return super().forward(x, *mask, **options)
        if self.inference == "class":
            return self.forward_head(self._token_features(x, 1))
        return self._mean(self._token_features(x, self.num_prefix_tokens))

    def _token_features(self, x: Float[Tensor, "b c h w"], count: int) -> Float[Tensor, "b n d"]:
        """`forward_features(x)`, of which `count` tokens at the front are enough, as their heads read them."""
        *blocks, last = self.blocks
        if self.read_at and count > 1:
            return self._features_at_depths(x)
        if self.grad_checkpointing or not can_shorten(last):
            return self.forward_features(x)
        assert isinstance(last, Block)
        fast = self.fused_blocks and self.training
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x, fast))))
        for block in blocks:
            x = fused(block, x) if fast else block(x)
        features: Tensor = self.norm(first_fused(last, x, count) if fast else first_tokens(last, x, count))
        return features

    def can_fuse_blocks(self) -> bool:
        """Whether `fused_blocks` changes anything: the order of sums, and in bfloat16 what is rounded."""
        if self.grad_checkpointing or self.read_at or not can_shorten(self.blocks[-1]) or code() is None:
            return False
        return any(is_plain(block, self.pos_embed.shape[1]) for block in self.blocks)

    def _features_at_depths(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Class and advised tokens as their heads read them: after its own block each, and through its own norm."""
        *blocks, last = self.blocks
        x = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        early: dict[str, Tensor] = {}
        run: Any = checkpoint if self.grad_checkpointing else lambda block, x: block(x)
        for number, block in enumerate(blocks, start=1):
            x = run(block, x)
            for name in [name for name, depth in self.read_at.items() if depth == number]:
                early[name] = self.advised_norms[name](x[:, self.token_names.index(name)])
        if isinstance(last, Block) and can_shorten(last) and not self.grad_checkpointing:
            x = first_tokens(last, x, self.num_prefix_tokens)
        else:
            x = run(last, x)
        x = self.norm(x)
        return torch.stack(
            [early[name] if name in early else x[:, i] for i, name in enumerate(self.token_names)], dim=1
        )

    def _heads(self, x: Float[Tensor, "b l d"]) -> dict[str, Tensor]:
        x = self.head_drop(self.fc_norm(x[:, : self.num_prefix_tokens]))  # b (1+t) d
        heads = [self.head, *self.advised_heads.values()]
        if torch.compiler.is_compiling() and not exporting() and alike(heads):
            return dict(zip(self.token_names, heads_at_once(heads, x), strict=True))
        return {name: head(x[:, i]) for i, (name, head) in enumerate(zip(self.token_names, heads, strict=True))}

    def forward_head(self, x: Float[Tensor, "b l d"], pre_logits: bool = False) -> Tensor:
        """Inference logits (b, k) from the features; before the heads, the class token or the tokens' mean."""
        if self.inference == "class" or self.global_pool == "":
            return super().forward_head(x, pre_logits=pre_logits)
        if pre_logits:
            return self.head_drop(self.fc_norm(x[:, : self.num_prefix_tokens].mean(1)))
        if self.read_at:
            raise ModelError("read_at: heads read tokens of several blocks, which features do not have; call the model")
        return self._mean(x)

    def _mean(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b k"]:
        return torch.stack(list(self._heads(x).values())).mean(0)


def _draw_seed() -> int:
    return int(torch.randint(2**62, (), device="cpu"))


def _check_options(embed_dim: int, num_heads: int, inference: str, token_std: float, kwargs: Mapping[str, Any]) -> None:
    if num_heads < 1 or embed_dim % num_heads:
        raise ModelError(
            f"width {embed_dim} cannot be shared by {num_heads} heads: choose embed_dim as a multiple of num_heads"
        )
    if inference not in get_args(Inference):
        raise ModelError(f"inference is {inference!r}; choose 'class' or 'average'")
    if isinstance(token_std, bool) or not (isinstance(token_std, Real) and 0 < token_std < math.inf):
        raise ModelError(f"token_std is {token_std!r}: give a finite number above 0")
    for option in _NOT_OPTIONS:
        if option in kwargs:
            raise ModelError(f"a CiT has no option {option!r}: its class token and position embeddings are fixed")
    if kwargs.get("global_pool", "token") not in ("", "token"):
        raise ModelError(f"a CiT's outputs are its tokens: remove global_pool={kwargs['global_pool']!r}")


def _block_of(separate: str, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """timm's option for the kind of block, where it is not the usual one."""
    check_separate(separate)
    if separate == "none":
        return {}
    if "block_fn" in kwargs:
        raise ModelError("separate needs blocks of its own: leave out block_fn, or separate")
    return {"block_fn": SeparateBlock}


_STEM_CONVS = ("patch_embed.stems.conv.stem.0.conv", "patch_embed.stems.inv.stem.0.conv")
default_cfgs = generate_default_cfgs(
    {
        **{f"{name}.untrained": untrained() for name in ("cit_tiny", "cit_small", "cit_base")},
        **{f"{name}.untrained": untrained(first_conv=_STEM_CONVS) for name in ("cit_tiny_sa", "cit_small_sa")},
    }
)


def create_cit(variant: str, pretrained: bool, kwargs: dict[str, Any], **defaults: Any) -> nn.Module:
    """Build a CiT through timm's factory; `kwargs` override the variant's `defaults`."""
    return build_model_with_cfg(
        CiT,
        variant,
        pretrained,
        pretrained_filter_fn=fit_cit,
        feature_cfg={"out_indices": kwargs.pop("out_indices", 3), "feature_cls": "getter"},
        **{**defaults, **kwargs},
    )


@register_model
def cit_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CiT-Ti: width 192, depth 12, 3 heads, plain patches, learned tokens."""
    return create_cit("cit_tiny", pretrained, kwargs, embed_dim=192, num_heads=3)


@register_model
def cit_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CiT-S: width 384, depth 12, 6 heads, plain patches, learned tokens."""
    return create_cit("cit_small", pretrained, kwargs, embed_dim=384, num_heads=6)


@register_model
def cit_base(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Width 768, depth 12, 12 heads; not in the paper."""
    return create_cit("cit_base", pretrained, kwargs, embed_dim=768, num_heads=12)


@register_model
def cit_tiny_sa(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CiT-Ti with convolution and involution stem and aligned tokens."""
    return create_cit("cit_tiny_sa", pretrained, kwargs, embed_dim=192, num_heads=3, stem="conv+inv")


@register_model
def cit_small_sa(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CiT-SA and, trained with teachers, CiT-SAK: CiT-S with both stems and aligned tokens (Table 3)."""
    return create_cit("cit_small_sa", pretrained, kwargs, embed_dim=384, num_heads=6, stem="conv+inv")
