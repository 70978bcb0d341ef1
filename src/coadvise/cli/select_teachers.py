"""`coadvise select-teachers`: which candidates advise best together, without any training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ModelError
from ..system.extras import need
from ..system.files import require_absent, write_new
from ..system.progress import Display
from ..system.screen import Table
from .arguments import AsJson, out

ALIKE = 0.6  # κ above which errors are "much the same": Landis and Koch's substantial agreement

if TYPE_CHECKING:
    from torch import Tensor

    from ..evaluation.candidates import Candidate, Choice, Pair
    from ..shapes import Int


def select_teachers(
    source: Annotated[str, typer.Argument(help="your images, as data.source takes them")],
    candidates: Annotated[
        list[str],
        typer.Argument(
            help="folders of runs, FILE, MODEL=FILE, names of timm's models, or transformers:…, onnx:…, torchvision:…"
        ),
    ],
    count: Annotated[int, typer.Option(min=1, help="teachers that are proposed")] = 2,
    image_size: Annotated[
        int | None, typer.Option(min=4, help="side of the images for networks that do not know your classes")
    ] = None,
    val_source: Annotated[str | None, typer.Option(help="another source for validation")] = None,
    plot: Annotated[Path | None, typer.Option(help="draw the pairs into this PNG file")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare candidates for teachers on your images, and propose a set. Nothing is trained but linear probes.

    Examples:

        coadvise select-teachers photographs runs/folder/teachers/conv runs/folder/teachers/inv regnety_002

        coadvise select-teachers photographs resnet18=a.pth resnet50=b.pth rednet26=c.pth --plot pairs.png
    """
    names = list(dict.fromkeys(candidates))
    if len(names) < 2:
        raise ModelError("name two candidates or more: what they have in common is what is compared")
    if plot is not None:
        need("matplotlib", "--plot")
        require_absent(plot)
    from ..data.sources.opening import open_sources
    from ..evaluation.asking import ask
    from ..evaluation.candidates import as_json as in_json
    from ..evaluation.candidates import choose, pairs_of
    from ..recipe.schema import Data
    from ..system.devices import choose_device

    display = Display(quiet=as_json)
    data = Data(source=source, val_source=val_source)
    sources = open_sources(data, display.say_once)
    asked = ask(names, sources, data, image_size, device=choose_device(), display=display)
    choice = choose(asked.candidates, asked.label, count)
    if as_json:
        print(json.dumps(in_json(asked.candidates, asked.label, choice), indent=1))
    else:
        _print_candidates(asked.candidates, asked.label)
        _print_pairs(pairs_of(asked.candidates, asked.label))
        _print_choice(choice, len(asked.label), count)
    if plot is not None:
        from ..evaluation.pair_figure import pairs_drawing

        write_new(plot, pairs_drawing(asked.candidates, asked.label, choice.names).png)
        if not as_json:
            out.print(f"wrote {plot}")


def _print_candidates(candidates: list[Candidate], label: Int[Tensor, " n"]) -> None:
    table = Table("candidate", "bias", "through", title=f"{len(label):,} validation images", title_justify="left")
    for column in ("accuracy", "parameters", "images/s"):
        table.add_column(column, justify="right")
    for one in sorted(candidates, key=lambda one: -one.accuracy(label)):
        share = one.accuracy(label)
        error = (share * (1 - share) / len(label)) ** 0.5
        through = "linear probe" if one.probed else "own head"
        table.add_row(
            one.name, one.bias or "", through, f"{share:.1%} ± {error:.1%}", f"{one.parameters / 1e6:.2f} M",
            f"{one.images_per_s:,.0f}",
        )  # fmt: skip
    out.print(table)


def _print_pairs(pairs: list[Pair]) -> None:
    table = Table("pair", title="in pairs", title_justify="left")
    for column in ("κ of errors", "CKA", "average", "either right"):
        table.add_column(column, justify="right")
    shown = lambda value: "" if value is None else f"{value:.2f}"
    for pair in pairs:
        table.add_row(
            " + ".join(pair.names), shown(pair.kappa), shown(pair.cka), f"{pair.average:.1%}", f"{pair.either:.1%}"
        )
    out.print(table)
    out.print("κ of errors: 1 where two err on the same images, 0 where no more than by chance; look for a low one")


def _print_choice(choice: Choice, images: int, count: int = 2) -> None:
    if choice.weak:
        err = "errs" if len(choice.weak) == 1 else "err"
        out.print(f"left out: {', '.join(choice.weak)}, which {err} far more often than the best")
    is_right = "right" if len(choice.names) == 1 else "their average is right"
    out.print(f"proposed: {' + '.join(choice.names)} ({is_right} on {choice.average:.1%})")
    if len(choice.names) == 1:
        if count > 1:
            out.print("no other candidate is near enough; fine-tune one of another kind on these images")
        return
    images_gained = "1 image" if choice.gained == 1 else f"{choice.gained} images"
    chosen = f", corrected for the choice among {choice.sets:,} sets on the same images" if choice.sets > 1 else ""
    change = f"{images_gained} gained, {choice.lost} lost of {images:,}, p = {choice.p:.2g}{chosen}"
    if choice.p < 0.05 and choice.gained > choice.lost:
        out.print(f"together they know more than the best alone, {choice.best}: {change}")
    elif choice.p < 0.05:
        out.print(f"the best alone, {choice.best}, knows more than their average: {change}")
    else:
        out.print(f"it is not shown that together they know more than the best alone, {choice.best}: {change}")
    if choice.kappa is not None and choice.kappa > ALIKE:
        out.print(f"they err on much the same images (κ {choice.kappa:.2f}): one of another kind would add more")
