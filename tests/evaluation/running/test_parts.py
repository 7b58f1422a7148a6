"""What a pipeline is made of tells where it computes."""

import pytest
from haystack import Document, Pipeline, component
from haystack.utils import ComponentDevice

from haystack_ce_ranker.evaluation.running.parts import devices_of, remote_parts


@component
class Asking:
    """A component with an address, a device, and others within it."""

    def __init__(self, *inner, **settings):
        self.inner = inner
        vars(self).update(settings)

    @component.output_types(documents=list[Document])
    def run(self, query: str) -> dict:
        return {"documents": []}


def of(part):
    pipeline = Pipeline()
    pipeline.add_component("part", part)
    return pipeline


@pytest.mark.parametrize("settings", [{"url": "http://there"}, {"_hosts": ["there"]}, {"api_key": "secret"}])
def test_what_has_an_address_or_a_key_runs_elsewhere(settings):
    assert remote_parts(of(Asking(**settings))) == ("Asking",)
    assert remote_parts(of(Asking(Asking(**settings)))) == ("Asking",)


@pytest.mark.parametrize("settings", [{}, {"url": None}, {"host": ""}, {"location": ":memory:"}])
def test_what_has_none_runs_here(settings):
    assert remote_parts(of(Asking(**settings))) == ()


def test_the_devices_are_those_of_all_components():
    inner = Asking(device=ComponentDevice.from_str("cuda:1"))
    assert devices_of(of(Asking(inner, device=ComponentDevice.from_str("cpu")))) == {"cuda:1", "cpu"}
