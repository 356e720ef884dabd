"""The causal heads: dictionary of prior knowledge, and what the age group gets from the band."""

import pytest
import torch

from model.classifier import StudentConfig
from model.encoders import from_dict, to_dict
from model.encoders.ecapa import EcapaConfig
from model.heads import HeadsConfig, PriorKnowledge, TaskHeads
from model.labels import DEFAULT_TREE

KINDS = 14


def prior():
    torch.manual_seed(0)
    module = PriorKnowledge(6, 4, DEFAULT_TREE).eval()
    module.dictionary.copy_(torch.randn(KINDS, 4))
    return module


def test_knowledge_is_the_dictionary_row_of_a_sure_glance():
    module = prior()
    with torch.no_grad():
        for linear in (module.gender, module.band):
            linear.weight.zero_()
        module.gender.bias.copy_(torch.tensor([0.0, 50.0]))  # male
        module.band.bias.copy_(torch.tensor([0, 0, 0, 0, 0, 0, 50.0]))  # 60+
        x = torch.randn(3, 6)
        z, prior_logits = module(x)
        row = module.dictionary[13].expand(3, 4)  # gender 1 x 7 bands + band 6
        torch.testing.assert_close(z, module.join(torch.cat([x, row], dim=1)))
    assert set(prior_logits) == {"gender", "age_band"}


def test_the_dictionary_matters_and_a_constant_one_is_a_constant():
    module, x = prior(), torch.randn(5, 6)
    with torch.no_grad():
        z, _ = module(x)
        module.dictionary.zero_()
        without, _ = module(x)
        module.dictionary.fill_(1.0)
        constant, _ = module(x)
    assert not torch.allclose(z, without)
    # a row that is the same for everybody only moves Z by a bias
    torch.testing.assert_close(constant - without, (constant - without)[:1].expand(5, 6))


def test_knowledge_gives_the_glance_no_gradient():
    module, x = prior(), torch.randn(5, 6)
    module(x)[0].sum().backward()
    assert module.gender.weight.grad is None
    assert module.band.weight.grad is None
    assert module.join.linear.weight.grad.abs().sum() > 0


def heads(**changes):
    torch.manual_seed(0)
    return TaskHeads(12, HeadsConfig(embedding=8, **changes), DEFAULT_TREE).eval()


def test_marginalised_groups_are_the_sums_of_their_bands():
    logits, _, _ = heads(hierarchy="marginalised")(torch.randn(4, 12))
    band = logits["age_band"].softmax(dim=1)
    group = logits["age_group"].softmax(dim=1)
    by_hand = torch.stack([band[:, 0], band[:, 1:4].sum(1), band[:, 4:6].sum(1), band[:, 6]], dim=1)
    torch.testing.assert_close(group, by_hand)


def test_only_conveyed_heads_pass_the_band_to_the_group():
    for hierarchy, conveyed in (("separate", False), ("conveyed", True)):
        module = heads(hierarchy=hierarchy, hidden=5)
        module(torch.randn(4, 12))[0]["age_group"].sum().backward()
        assert (module.hidden["age_band"].weight.grad is not None) == conveyed


def test_files_from_before_the_causal_heads_are_still_read():
    plain = StudentConfig().to_dict()
    encoder = dict(plain["encoder"])
    del encoder["family"]
    old = {"encoder": encoder, "embedding": 96, "dropout": 0.1, "tree": plain["tree"]}
    config = StudentConfig.from_dict(old)
    assert config.heads == HeadsConfig(embedding=96, dropout=0.1)
    assert config.encoder == EcapaConfig()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HeadsConfig(hierarchy="conveyed"), "hidden"),
        (lambda: from_dict({**to_dict(EcapaConfig()), "family": "transformer"}), "'transformer'"),
        (lambda: StudentConfig(sample_rate=16000), "sample_rate 16000"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
