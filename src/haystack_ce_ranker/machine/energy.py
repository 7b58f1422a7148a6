"""
What a piece of work takes: seconds, and joules from the hardware's counters or, if none can be read, an estimate.

Counters come first: RAPL for processors, NVML for NVIDIA cards. Their idle draw is measured for a second beforehand and
taken off, which leaves what the work added. If something else keeps the machine busy in that second, nothing is taken
off, since that draw is not idle: work that begins as the other ends would cost less than nothing. Without counters, the
processor's rated power is divided by its CPUs and multiplied by the time that they were busy, so idle draw is no part
of it. `source` says which of the two was used. They are never mixed. codecarbon and NVML read the hardware. Nothing is
sent anywhere.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

IDLE_SECONDS = 1.0
UNCOUNTED = "not covered"
"""How `source` ends where some of the hardware at work is not in the figures."""
ALL_DRAW = "idle draw and other processes are in it"
"""What `source` says where something else was at work when the idle draw was to be measured."""
MOST_IDLE_USE = 0.1
"""The share of a processor or card that may be in use while its idle draw is measured."""
_JOULES_PER_KWH = 3.6e6
_NO_WATTS_KNOWN = 4.0
"""Watts of a CPU that codecarbon assumes if it does not know the processor."""


@dataclass
class Spent:
    """
    What a piece of work took; filled in when it ends.

    :ivar joules: Above idle draw, if it was measured. May be slightly negative for work shorter than the counter's
        step (about a millisecond); averages are right.
    """

    seconds: float = 0.0
    joules: float = 0.0


@dataclass(frozen=True)
class EnergyMeter:
    """
    Measures work on this machine; make one with `meter_for`.

    :ivar source: `measured: ...` or `estimated: ...`, with what it covers.
    :ivar watts: If energy is measured, the idle draw that is taken off. If it is estimated, the watts of a busy CPU.
    """

    source: str
    watts: float
    _counter: Callable[[], float] | None = None

    @contextlib.contextmanager
    def measure(self) -> Iterator[Spent]:
        """Measure what happens inside."""
        spent = Spent()
        joules = self._counter() if self._counter is not None else 0.0
        started, busy = time.perf_counter(), time.process_time()
        try:
            yield spent
        finally:
            spent.seconds = time.perf_counter() - started
            if self._counter is None:
                spent.joules = self.watts * (time.process_time() - busy)
            else:
                spent.joules = self._counter() - joules - self.watts * spent.seconds


def omitted(source: str) -> str:
    """Return what the figures of a source leave out, in words."""
    return "loading and the first run are not in it" + ("" if ALL_DRAW in source else ", nor is idle draw")


@cache
def meter_for(device: str = "cpu") -> EnergyMeter:
    """
    Return the meter for work on a device. On a GPU it measures the processor, too, if RAPL can be read.

    :param device: A torch device, such as `cpu` or `cuda:0`.
    :raises ImportError: If codecarbon is missing.
    """
    counters = {"RAPL": _rapl(), "NVML": _nvml(device) if device.startswith("cuda") else None}
    if device != "cpu" and counters["NVML"] is None:
        return EnergyMeter(f"estimated: busy CPU time alone, {device} {UNCOUNTED}", _watts_per_cpu())
    readable = {name: counter for name, counter in counters.items() if counter is not None}
    if not readable:
        watts = _watts_per_cpu()
        return EnergyMeter(f"estimated: {watts:.1f} W for each busy CPU", watts)

    def total() -> float:
        return sum(float(counter()) for counter in readable.values())

    before, started = total(), time.perf_counter()
    busy = max(_use_of(name, device, IDLE_SECONDS / len(readable)) for name in readable)
    idle = max((total() - before) / (time.perf_counter() - started), 0.0)
    covered = " and ".join(readable)
    without = f", processor {UNCOUNTED}" if "RAPL" not in readable else ""
    if busy > MOST_IDLE_USE:
        return EnergyMeter(f"measured: {covered}, {ALL_DRAW} ({busy:.0%} busy before it began){without}", 0.0, total)
    return EnergyMeter(f"measured: {covered}, {idle:.1f} W idle taken off{without}", idle, total)


def _rapl() -> Callable[[], float] | None:
    """Return a function that gives the joules of all processor packages so far, or None if they cannot be read."""
    cpu, units = _codecarbon()
    with _quiet():
        if not cpu.is_rapl_available():
            return None
        reader = cpu.IntelRAPL()
        reader.start()
    joules, last = 0.0, time.perf_counter()

    def read() -> float:
        nonlocal joules, last
        now = time.perf_counter()
        found = reader.get_cpu_details(units.Time.from_seconds(max(now - last, 1e-6)))
        joules += _JOULES_PER_KWH * sum(float(value) for name, value in found.items() if "Energy" in name)
        last = now
        return joules

    return read


def _nvml(device: str) -> Callable[[], float] | None:
    """Return a function that gives the joules of one card since its driver was loaded, or None."""
    try:
        nvml, card = _card(device)
        nvml.nvmlDeviceGetTotalEnergyConsumption(card)
    except Exception:  # no driver, an old card, a container without access: in each case there is no counter
        return None
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(card)) / 1000.0


def _card(device: str) -> tuple[Any, Any]:
    """Return NVML and its handle of the card that torch calls so."""
    import pynvml
    import torch

    pynvml.nvmlInit()
    index = torch.device(device).index
    properties = torch.cuda.get_device_properties(index if index is not None else torch.cuda.current_device())
    return pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")


def _use_of(counter: str, device: str, seconds: float) -> float:
    """Return the share of what a counter counts that is in use during the next seconds, which it waits; 0 to 1."""
    if counter == "RAPL":
        import psutil

        return float(psutil.cpu_percent(seconds)) / 100.0
    time.sleep(seconds)
    try:
        nvml, card = _card(device)
        return float(nvml.nvmlDeviceGetUtilizationRates(card).gpu) / 100.0
    except Exception:  # a card that has the counter of energy, but not this one, as under MIG
        return 0.0


def _watts_per_cpu() -> float:
    """Return the processor's rated power by codecarbon's table, shared by the CPUs that the machine shows."""
    cpu, _ = _codecarbon()
    from codecarbon.core.util import count_cpus

    with _quiet():
        rated = cpu.TDP().tdp
    return float(rated) / count_cpus() if rated else _NO_WATTS_KNOWN


def _codecarbon() -> tuple[Any, Any]:
    try:
        from codecarbon.core import cpu, units
    except ImportError as error:
        raise ImportError('measuring energy needs codecarbon: pip install "ce-ranker-haystack[evaluate]"') from error
    return cpu, units


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide codecarbon's message that it does not know the processor; `source` says what is used instead."""
    logger = logging.getLogger("codecarbon")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
