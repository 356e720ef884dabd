import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from train.method.mixup import SpecAugment, TemporalFrequencyMixup


class Instead(nn.Module):
    """SpecAugment with a fixed result."""

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, _features, _frames):
        return self.features


def naive(features, masked, frames, window, lam):
    mixed = features.clone()
    for row, count in enumerate(frames.tolist()):
        for i in range(count):
            terms = [
                masked[row, j]
                for j in range(i - window // 2, i + window // 2 + 1)
                if 0 <= j < count
            ]
            mixed[row, i] = lam * features[row, i] + (1 - lam) * sum(terms) / len(terms)
    return mixed


def log_mel(rows=3, size=12, bins=5, seed=0):
    """Log-mel-like features: far from zero, so that a wrong count of terms shows."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, size, bins, generator=generator) - 8.0


@given(
    seed=st.integers(0, 2**31 - 1),
    frames=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    window=st.sampled_from([0, 2, 4, 10, 40]),
    lam=st.floats(0.0, 1.0),
)
def test_mixup_is_the_double_loop(seed, frames, window, lam):
    features = log_mel(rows=len(frames), seed=seed)
    masked = log_mel(rows=len(frames), seed=seed + 1)
    frames = torch.tensor(frames)
    mixed = TemporalFrequencyMixup(Instead(masked), window=window, lam=lam)(features, frames)
    expected = naive(features, masked, frames, window, lam)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=1e-5)


def test_long_utterances_keep_their_digits():
    features = log_mel(rows=1, size=3000, bins=2) * 100
    frames = torch.tensor([3000])
    mixed = TemporalFrequencyMixup(Instead(features), window=4, lam=0.0)(features, frames)
    expected = naive(features.double(), features.double(), frames, 4, 0.0)
    torch.testing.assert_close(mixed.double(), expected, rtol=1e-6, atol=0)


either = pytest.mark.parametrize(
    "make", [SpecAugment, lambda: TemporalFrequencyMixup(SpecAugment(), window=8)]
)


@either
def test_padding_neither_leaks_nor_changes(make):
    features, frames = log_mel(rows=3, size=60, bins=80), torch.tensor([60, 31, 0])
    soiled = features.clone()
    for row, count in enumerate(frames.tolist()):
        soiled[row, count:] = float("nan")
    torch.manual_seed(0)
    clean = make()(features, frames)
    torch.manual_seed(0)
    out = make()(soiled, frames)
    for row, count in enumerate(frames.tolist()):
        torch.testing.assert_close(out[row, :count], clean[row, :count], rtol=0, atol=0)
        assert out[row, count:].isnan().all()
        assert torch.equal(clean[row, count:], features[row, count:])
    assert not torch.equal(clean[1, :31], features[1, :31])


@either
def test_eval_mode_changes_nothing(make):
    features, frames = log_mel(rows=4, size=60, bins=80), torch.full((4,), 60)
    assert torch.equal(make().eval()(features, frames), features)
    assert not torch.equal(make()(features, frames), features)


@either
def test_the_default_generator_decides_and_the_input_stays(make):
    features, frames = log_mel(rows=4, size=60, bins=80), torch.full((4,), 60)
    before = features.clone()
    state = torch.get_rng_state()
    first = make()(features, frames)
    second = make()(features, frames)
    torch.set_rng_state(state)
    assert torch.equal(make()(features, frames), first)
    assert not torch.equal(second, first)
    assert torch.equal(features, before)


def test_masked_cells_take_the_mean_of_their_bin():
    torch.manual_seed(0)
    features, frames = log_mel(rows=8, size=60, bins=80), torch.full((8,), 40)
    out = SpecAugment()(features, frames)
    hidden = out != features
    assert hidden.any(dim=(1, 2)).all()
    mean = features[:, :40].mean(dim=1, keepdim=True).expand_as(out)
    torch.testing.assert_close(out[hidden], mean[hidden])


def test_bands_are_whole_and_of_the_policys_width():
    torch.manual_seed(0)
    features, frames = log_mel(rows=3000, size=3, bins=80), torch.full((3000,), 3)
    hidden = SpecAugment(frequency_masks=1, time_masks=0)(features, frames) != features
    assert (hidden == hidden[:, :1]).all()  # of every frame alike
    band = hidden[:, 0].int()
    assert ((band.diff(dim=1) == 1).sum(dim=1) + band[:, 0] <= 1).all()  # one run each
    assert set(band.sum(dim=1).tolist()) == set(range(16))
    assert band.any(dim=0).all()  # every bin may be hidden, first and last too


@pytest.mark.parametrize(("bins", "widest"), [(64, 12), (40, 8)])
def test_bands_narrow_with_the_number_of_bins(bins, widest):
    torch.manual_seed(0)
    features, frames = log_mel(rows=1000, size=3, bins=bins), torch.full((1000,), 3)
    hidden = SpecAugment(frequency_masks=1, time_masks=0)(features, frames) != features
    assert hidden[:, 0].sum(dim=1).max() == widest


@pytest.mark.parametrize(("size", "widest"), [(50, 10), (400, 70)])
def test_spans_are_whole_and_within_share_and_width(size, widest):
    torch.manual_seed(0)
    features, frames = log_mel(rows=2000, size=size + 9, bins=2), torch.full((2000,), size)
    hidden = SpecAugment(frequency_masks=0, time_masks=1)(features, frames) != features
    assert torch.equal(hidden[..., 0], hidden[..., 1])
    span = hidden[..., 0].int()
    assert ((span.diff(dim=1) == 1).sum(dim=1) + span[:, 0] <= 1).all()
    assert set(span.sum(dim=1).tolist()) == set(range(widest + 1))
    assert span[:, :size].any(dim=0).all()
    assert not span[:, size:].any()


def drawn_lam(alpha, rows):
    features, frames = torch.ones(rows, 2, 1), torch.full((rows,), 2)
    mixup = TemporalFrequencyMixup(Instead(torch.zeros(rows, 2, 1)), lam_alpha=alpha)
    return mixup(features, frames)[..., 0]


def test_drawn_lam_is_one_per_utterance_and_favours_the_original():
    torch.manual_seed(0)
    lam = drawn_lam(1.0, 4000)
    assert torch.equal(lam[:, 0], lam[:, 1])
    assert lam.min() >= 0.5
    assert lam.max() <= 1.0
    assert lam.mean().item() == pytest.approx(0.75, abs=0.01)  # of max(U, 1 - U)
    assert drawn_lam(50.0, 4000).mean() < 0.6  # a peaked Beta stays near one half


@pytest.mark.parametrize(
    "wrong", [{"window": 3}, {"window": -2}, {"lam": 1.5}, {"lam": -0.1}, {"lam_alpha": 0.0}]
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TemporalFrequencyMixup(SpecAugment(), **wrong)
