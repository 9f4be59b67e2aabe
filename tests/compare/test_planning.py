"""What is said before a comparison: whether it can conclude, with what power, and how long."""

from dataclasses import replace

from test_experiment import config_of

from gelu_jax.compare.planning import forecast, outlook
from gelu_jax.runs.record import Run

SIX = {name: {} for name in ("a", "b", "c", "d", "e", "f")}


def pilot(arm: str, seed: int, loss: float, status: str = "finished") -> Run:
    curves = ((1,), (1.0,), (0, 1), (2.0, loss), (0.0, 60.0))
    return Run(arm, seed, 0.1, "tuning", status, *curves)  # type: ignore[arg-type]


def test_too_few_seeds_are_said_from_the_config_alone():
    line = outlook(config_of(arms=SIX, seeds=5))
    assert line.startswith("6 arms with 5 seeds can never conclude")
    assert "fewer than 6 seeds" in line
    assert "never" not in outlook(config_of(arms=SIX, seeds=5, max_seeds=8))
    assert "never" not in outlook(config_of(arms=SIX, seeds=6))


def test_power_is_said_from_the_config_alone():
    assert "2 arms with 8 seeds have 80 % power for a difference of 1.2 sta" in outlook(
        config_of(seeds=8)
    )


def test_nothing_is_said_where_nothing_is_concluded():
    assert outlook(config_of(protocol="smoke test")) == ""
    assert outlook(config_of(arms={"a": {}})) == ""
    assert forecast(config_of(), {"relu": [], "swiglu": []}) == ""


def test_pilots_suggest_the_power_and_the_time():
    pilots = {
        "relu": [pilot("relu", 0, 1.5), pilot("relu", 1, 1.6)],
        "swiglu": [pilot("swiglu", 0, 1.4), pilot("swiglu", 1, 1.48)],
    }
    line = forecast(config_of(seeds=8), pilots)
    assert "swiglu −0.11 (power about 100 %)" in line
    assert "about 16 min" in line  # eight seeds of two arms, a minute each
    one = {name: runs[:1] for name, runs in pilots.items()}
    assert "swiglu −0.1." in forecast(config_of(seeds=8), one)
    lost = {**pilots, "relu": [replace(pilots["relu"][0], status="diverged")]}
    assert forecast(config_of(seeds=8), lost) == ""
