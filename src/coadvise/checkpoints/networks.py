"""A network with the weights of a file, for classes that it does not know yet."""

from __future__ import annotations

from torch import nn

from ..errors import CheckpointError
from ..recipe.schema import Student
from .bounds import local, within
from .build import from_settings, of_tokens, takes_tokens
from .loading import load_checkpoint
from .naming import NamedFile


def network_for(file: NamedFile, classes: int, image_size: int | None) -> tuple[nn.Module, Student]:
    """The network of a file, with a last layer of random weights for so many classes.

    A file of ours says how its model is made, and how large its images were where that is not given; of another one the
    model is that of its name.

    Returns:
        The network, and the settings that make one like it.

    Raises:
        ModelError, CheckpointError: a model that cannot be made, or weights that do not fit it.
    """
    header = file.header
    if header is None:
        settings = Student(model=file.model)
        network = from_settings(settings, {}, classes, image_size)
    elif header.given:
        raise CheckpointError(
            f"{file.path} holds the weights of a module that was given from Python ({header.given}), which is made "
            "nowhere else; give another model"
        )
    else:
        made = local(header.recipe.student, header.built_as, file.path)
        options = dict(made.options)
        if takes_tokens(made.model):
            options = {"teachers": header.recipe.tokens(), **options, **of_tokens(made)}
        settings = Student(model=made.model, options=options, small_stem=made.small_stem)
        with within(file.path):
            network = from_settings(settings, options, classes, image_size or header.recipe.data.image_size)
    load_checkpoint(network, file.path, new_classifier=True)
    return network, settings
