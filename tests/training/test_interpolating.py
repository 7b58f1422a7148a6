import pytest
import torch

from haystack_ce_ranker.training.interpolating import copied, move_back


class Tied(torch.nn.Module):
    """Two names of one weight, a weight, and a buffer of whole numbers."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Linear(2, 2, bias=False)
        self.other = torch.nn.Linear(2, 2, bias=False)
        self.other.weight = self.one.weight
        self.norm = torch.nn.BatchNorm1d(2)


@pytest.fixture
def model():
    made = Tied()
    with torch.no_grad():
        made.one.weight.fill_(1.0)
    return made


def test_each_weight_goes_part_of_the_way_and_a_shared_one_goes_it_once(model):
    base = copied(model)
    with torch.no_grad():
        model.one.weight.fill_(5.0)
        model.norm.running_mean.fill_(8.0)
        model.norm.num_batches_tracked.fill_(7)
    move_back(model, base, 0.25)
    assert torch.equal(model.other.weight, torch.full((2, 2), 2.0))
    assert torch.equal(model.norm.running_mean, torch.full((2,), 2.0))
    assert int(model.norm.num_batches_tracked) == 7


def test_all_the_way_the_weights_stay(model):
    base = copied(model)
    with torch.no_grad():
        model.one.weight.copy_(torch.rand(2, 2) / 3)
    learnt = model.one.weight.clone()
    move_back(model, base, 1.0)
    assert torch.equal(model.one.weight, learnt)


def test_the_copy_does_not_learn(model):
    base = copied(model)
    with torch.no_grad():
        model.one.weight.fill_(5.0)
    assert torch.equal(base["one.weight"], torch.ones(2, 2))
