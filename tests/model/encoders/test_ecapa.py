from dataclasses import replace

import pytest
import torch

from model.classifier import SpeakerClassifier, StudentConfig
from model.encoders.ecapa import ECAPA_512, DenseConv, EcapaConfig
from model.heads import HeadsConfig


@pytest.mark.parametrize(("channels", "published"), [(256, 3.33e6), (512, 6.19e6), (1024, 14.66e6)])
def test_reference_widths_have_the_published_parameter_counts(channels, published):
    """With a 192-d embedding; ours has 13 classes instead of speakers."""
    config = replace(ECAPA_512, channels=channels)
    student = SpeakerClassifier(StudentConfig(encoder=config, heads=HeadsConfig(embedding=192)))
    heads = sum(p.numel() for p in student.heads.classify.parameters())
    encoder = sum(p.numel() for p in student.parameters()) - heads
    assert encoder == pytest.approx(published, rel=0.005)


def test_dense_conv_equals_torchs_strided_convolution():
    torch.manual_seed(0)
    layer = DenseConv(3, 4, 5, dilation=1, stride=2).eval()
    x = torch.randn(2, 16, 3)
    y, _ = layer.step(x, torch.zeros(2, layer.state_size))
    weight = layer.product.linear.weight.reshape(4, 5, 3).permute(0, 2, 1)
    padded = torch.nn.functional.pad(x.transpose(1, 2), (layer.context, 0))
    expected = torch.nn.functional.conv1d(padded, weight, stride=2).transpose(1, 2)
    scale = (1 + layer.product.norm.eps) ** -0.5
    torch.testing.assert_close(y, torch.relu(expected * scale), atol=1e-5, rtol=1e-5)


def test_offline_encoder_does_not_depend_on_padding():
    config = EcapaConfig(
        channels=16, dilations=(2, 3), kernel=3, res2_scale=4, stem_stride=1, aggregated=24,
        attention=8, squeeze=4, causal=False, global_context=True,
    )  # fmt: skip
    torch.manual_seed(1)
    student = SpeakerClassifier(
        StudentConfig(encoder=config, heads=HeadsConfig(embedding=8))
    ).eval()
    samples = torch.randn(2, 16000) * 0.1
    together = student(samples, torch.tensor([16000, 9000])).last()
    alone = student(samples[1:, :9000], torch.tensor([9000])).last()
    for task, logits in alone.items():
        torch.testing.assert_close(together[task][1:], logits, atol=1e-4, rtol=1e-4)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ValueError, match="channels 10"):
        EcapaConfig(channels=10, res2_scale=4)
    with pytest.raises(ValueError, match="global_context"):
        EcapaConfig(causal=True, global_context=True)
