"""The energy meter: counters where there are any, idle draw taken off, and an estimate that says so elsewhere."""

from types import SimpleNamespace

import pytest

from haystack_ce_ranker.machine import energy

pytest.importorskip("codecarbon", reason="needs the extra 'evaluate'")


class Clock:
    """Time that passes when a test says so, and how long the threads of this process were busy in it."""

    def __init__(self):
        self.now = self.busy = 1000.0
        self.module = SimpleNamespace(perf_counter=lambda: self.now, process_time=lambda: self.busy)

    def passes(self, seconds, *, threads=0):
        self.now += seconds
        self.busy += threads * seconds

    def drawing(self, watts):
        """A counter of a device that draws so many watts all the time."""
        return lambda: watts * self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """No meter of an earlier test, and a machine that nobody else uses, whose time stands still."""
    made = Clock()
    energy.meter_for.cache_clear()
    monkeypatch.setattr(energy, "time", made.module)
    monkeypatch.setattr(energy, "_use_of", lambda counter, device, seconds: made.passes(seconds) or 0.0)
    yield made
    energy.meter_for.cache_clear()


def test_without_counters_the_busy_time_of_all_threads_is_multiplied_by_a_cpus_watts(monkeypatch, clock):
    monkeypatch.setattr(energy, "_rapl", lambda: None)
    monkeypatch.setattr(energy, "_watts_per_cpu", lambda: 10.0)
    meter = energy.meter_for("cpu")
    assert meter.source == "estimated: 10.0 W for each busy CPU"
    with meter.measure() as asleep:
        clock.passes(0.25)
    with meter.measure() as busy:
        clock.passes(0.5, threads=3)
    assert (asleep.seconds, asleep.joules) == (0.25, 0.0)
    assert (busy.seconds, busy.joules) == (0.5, 15.0)


def test_measured_energy_is_what_comes_on_top_of_the_idle_draw(monkeypatch, clock):
    draw = clock.drawing(5.0)
    worked = 0.0
    monkeypatch.setattr(energy, "_rapl", lambda: lambda: draw() + worked)
    meter = energy.meter_for("cpu")
    assert meter.source == "measured: RAPL, 5.0 W idle taken off"
    with meter.measure() as spent:
        clock.passes(0.25)
        worked = 3.0
    assert (spent.seconds, spent.joules) == (0.25, 3.0)


def test_a_gpu_is_measured_with_its_processor_where_both_can_be_read(monkeypatch, clock):
    monkeypatch.setattr(energy, "_rapl", lambda: clock.drawing(2.0))
    monkeypatch.setattr(energy, "_nvml", lambda device: clock.drawing(3.0))
    assert energy.meter_for("cuda:0").source == "measured: RAPL and NVML, 5.0 W idle taken off"


@pytest.mark.parametrize("busy", ["RAPL", "NVML"])
def test_nothing_is_taken_off_where_others_were_at_work_when_idle_draw_was_to_be_measured(busy, monkeypatch, clock):
    joules = 0.0

    def use(counter, device, seconds):
        nonlocal joules
        joules += 100.0  # what the others draw meanwhile
        clock.passes(seconds)
        return 0.4 if counter == busy else 0.0

    monkeypatch.setattr(energy, "_rapl", lambda: lambda: joules)
    monkeypatch.setattr(energy, "_nvml", lambda device: lambda: 0.0)
    monkeypatch.setattr(energy, "_use_of", use)
    meter = energy.meter_for("cuda:0")
    assert meter.source == f"measured: RAPL and NVML, {energy.ALL_DRAW} (40% busy before it began)"
    with meter.measure() as spent:
        joules += 7.0
    assert spent.joules == pytest.approx(7.0)
    assert energy.omitted(meter.source) == "loading and the first run are not in it"


def test_the_use_of_a_processor_is_what_psutil_sees(monkeypatch):
    import psutil

    monkeypatch.undo()
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: 100.0 * interval)
    assert energy._use_of("RAPL", "cpu", 0.25) == 0.25


def test_a_card_that_does_not_tell_its_use_counts_as_idle(monkeypatch):
    monkeypatch.undo()
    assert energy._use_of("NVML", "cuda:0", 0.0) == 0.0


def test_figures_less_idle_draw_say_so():
    assert energy.omitted("measured: RAPL, 5.0 W idle taken off").endswith(", nor is idle draw")


@pytest.mark.parametrize("device", ["cuda:0", "mps", "GPU.0"])
def test_a_gpu_without_a_counter_is_never_called_measured(monkeypatch, clock, device):
    monkeypatch.setattr(energy, "_rapl", lambda: clock.drawing(2.0))
    monkeypatch.setattr(energy, "_nvml", lambda device: None)
    source = energy.meter_for(device).source
    assert source.startswith("estimated: ")
    assert f"{device} not covered" in source


def test_a_gpu_alone_says_that_the_processor_is_not_covered(monkeypatch, clock):
    monkeypatch.setattr(energy, "_rapl", lambda: None)
    monkeypatch.setattr(energy, "_nvml", lambda device: clock.drawing(3.0))
    assert energy.meter_for("cuda").source.endswith("processor not covered")


def test_rapl_counters_are_read_through_codecarbon(monkeypatch, tmp_path):
    from codecarbon.core import cpu

    package = tmp_path / "intel-rapl:0"
    package.mkdir()
    (package / "name").write_text("package-0\n")
    (package / "max_energy_range_uj").write_text("262143328850\n")
    (package / "energy_uj").write_text("1000000\n")
    real = cpu.IntelRAPL
    monkeypatch.setattr(cpu, "is_rapl_available", lambda: True)
    monkeypatch.setattr(cpu, "IntelRAPL", lambda: real(rapl_dir=str(tmp_path)))
    read = energy._rapl()
    before = read()
    (package / "energy_uj").write_text("8500000\n")
    assert read() - before == pytest.approx(7.5)


def test_a_missing_nvml_is_no_counter():
    assert energy._nvml("cuda:0") is None


def test_a_processor_that_nobody_knows_gets_the_default_watts(monkeypatch):
    from codecarbon.core import cpu

    class Unknown:
        tdp = None

    monkeypatch.setattr(cpu, "TDP", Unknown)
    assert energy._watts_per_cpu() == 4.0


def test_missing_codecarbon_names_the_extra(monkeypatch):
    import builtins

    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.startswith("codecarbon"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ImportError, match="ce-ranker-haystack\\[evaluate\\]"):
        energy.meter_for("cpu")
