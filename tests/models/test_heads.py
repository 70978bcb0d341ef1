"""The heads of all tokens at once against each by itself."""

import timm
import torch
from torch import nn

from coadvise.models.heads import alike, heads_at_once


def test_they_give_what_each_gives_with_the_same_gradients():
    torch.manual_seed(0)
    heads, x = [nn.Linear(8, 5).double() for _ in range(3)], torch.randn(4, 3, 8, dtype=torch.float64)
    assert alike(heads)
    x.requires_grad_()
    variables = [x, *(p for head in heads for p in head.parameters())]
    expected = torch.stack([head(x[:, i]) for i, head in enumerate(heads)])
    found = torch.stack(heads_at_once(heads, x))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(z.cos().sum(), variables) for z in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_what_is_not_alike():
    one, other, bare = nn.Linear(8, 5), nn.Linear(8, 6), nn.Linear(8, 5, bias=False)
    watched = nn.Linear(8, 5)
    watched.register_forward_hook(lambda *_: None)
    for head in (other, bare, watched, nn.Identity()):
        assert not alike([one, head])


def test_a_compiled_student_has_one_product_for_its_heads():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    student = timm.create_model("cit_tiny", img_size=16, patch_size=8, depth=1, embed_dim=24, num_heads=2).eval()
    student.reset_classifier(5)
    x = torch.randn(2, 3, 16, 16)
    compiled = torch.compile(student.forward_tokens, backend=backend, fullgraph=True)(x)
    assert graphs[0].code.count("torch.baddbmm(") == 1 and "advised_heads" in graphs[0].code
    expected = student.forward_tokens(x)
    assert list(compiled) == list(expected) == ["class", "conv", "inv"]
    for name, logits in expected.items():
        torch.testing.assert_close(compiled[name], logits, rtol=1e-6, atol=1e-6)
