import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.classifier import BLOCK, SpeakerClassifier, StudentConfig
from model.labels import TASKS


def stream(student, samples, lengths):
    """Block by block from zero states; logits after each block."""
    state = torch.zeros(len(samples), student.state_size)
    outputs = []
    for start in range(0, samples.shape[1], BLOCK):
        valid = (lengths - start).clamp(0, BLOCK)
        output, state = student.step(samples[:, start : start + BLOCK], valid, state)
        outputs.append(output)
    return outputs


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**31), lengths=st.lists(st.integers(0, 5 * BLOCK), min_size=1, max_size=5)
)
def test_streaming_equals_offline(student, seed, lengths):
    generator = torch.Generator().manual_seed(seed)
    samples = torch.randn(len(lengths), 5 * BLOCK, generator=generator) * 0.2
    lengths = torch.tensor(lengths)
    with torch.no_grad():
        offline = student(samples, lengths)
        online = stream(student, samples, lengths)
    for k, output in enumerate(online):
        heard = offline.block_mask[:, k]
        assert torch.equal(heard, output.block_mask[:, 0])
        for task in TASKS:
            torch.testing.assert_close(
                output.logits[task][heard, 0], offline.logits[task][heard, k], atol=1e-4, rtol=1e-4
            )


def test_padding_and_neighbours_do_not_matter(student):
    torch.manual_seed(3)
    samples = torch.randn(3, 4 * BLOCK) * 0.1
    lengths = torch.tensor([4 * BLOCK, 2 * BLOCK + 700, 3 * BLOCK])
    with torch.no_grad():
        together = student(samples, lengths).last()
        alone = student(samples[1:2, : 2 * BLOCK + 700], lengths[1:2]).last()
    for task in TASKS:
        torch.testing.assert_close(together[task][1:2], alone[task], atol=1e-5, rtol=1e-4)


def test_nothing_depends_on_the_future(student):
    """The answer after two blocks is the same whatever the third holds."""
    torch.manual_seed(4)
    samples = torch.randn(1, 3 * BLOCK) * 0.1
    other = samples.clone()
    other[:, 2 * BLOCK :] = torch.randn(1, BLOCK)
    length = torch.tensor([3 * BLOCK])
    with torch.no_grad():
        a, b = student(samples, length).logits, student(other, length).logits
    for task in TASKS:
        torch.testing.assert_close(a[task][:, :2], b[task][:, :2])
        assert not torch.allclose(a[task][:, 2], b[task][:, 2])


def test_every_parameter_gets_a_gradient(student):
    trainable = SpeakerClassifier(student.config).train()
    output = trainable(torch.randn(4, 3 * BLOCK), torch.full((4,), 3 * BLOCK))
    torch.stack([logits.square().sum() for logits in output.logits.values()]).sum().backward()
    without = [n for n, p in trainable.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_judging_the_features_is_the_forward_pass(compact):
    samples, length = torch.randn(2, BLOCK - 7) * 0.1, torch.tensor([BLOCK - 7, 900])
    with torch.no_grad():
        whole = compact(samples, length)
        features = compact.features(samples)
        judged = compact.forward_features(features, length)
    assert features.shape == (2, BLOCK // 80, 80)
    assert torch.equal(whole.embedding, judged.embedding)


def test_config_round_trips_through_its_plain_form(student):
    assert StudentConfig.from_dict(student.config.to_dict()) == student.config


def test_compact_student_is_within_its_budget(compact):
    """The design allows 60 MFLOP per second of speech: count products per block."""
    flops = 0

    def count(_module, inputs, output):
        nonlocal flops
        flops += 2 * inputs[0].shape[-1] * output.numel()

    linear = (torch.nn.Linear, type(compact.encoder.aggregate))
    inside_norms = {id(m.linear) for m in compact.modules() if hasattr(m, "linear")}
    hooks = [
        m.register_forward_hook(count)
        for m in compact.modules()
        if isinstance(m, linear) and id(m) not in inside_norms
    ]
    with torch.no_grad():
        compact.step(
            torch.zeros(1, BLOCK), torch.tensor([BLOCK]), torch.zeros(1, compact.state_size)
        )
    for hook in hooks:
        hook.remove()
    frontend = 2 * (BLOCK // 80) * (200 * 254 + 254 * 80)
    per_second = (flops + frontend) / (BLOCK / 8000) / 1e6
    assert 50 < per_second < 65, per_second
