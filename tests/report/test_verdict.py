"""The verdict and the methods paragraph: what they say of comparisons whose truth is known."""

import math
from dataclasses import replace

import pytest
import synthetic
from synthetic import FULL, analyzed

from gelu_jax.compare.analysis import Analysis, analyze
from gelu_jax.compare.family import EXACT_PAIRS, Look
from gelu_jax.compare.records import Change
from gelu_jax.report.methods import methods
from gelu_jax.report.tables import contrasts_table, difference_table, results_table
from gelu_jax.report.verdict import verdict


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_fewer_than_six_seeds_never_conclude(seeds: int):
    analysis = analyze(synthetic.comparison(seeds=seeds))
    words = str(verdict(analysis))
    assert not any(contrast.found for contrast in analysis.family)
    assert "Inconclusive: gelu and swiglu do not differ significantly from relu." in words
    assert "with fewer than 6 paired seeds, no difference is significant" in words
    assert "confidence interval" not in words
    assert ("It takes at least" in words) == (seeds < 2)
    assert analysis.significant == set()


def test_an_inconclusive_verdict_says_what_it_could_have_seen_and_what_more_costs():
    """Seeds may be added up to the number that was planned; beyond it takes other seeds."""
    made = synthetic.comparison(("relu", "geglu"), noise=0.045)
    analysis = analyze(made)
    (contrast,) = analysis.contrasts
    words = str(verdict(analysis))
    assert not contrast.found
    detectable = f"{contrast.detectable:.{analysis.decimals}f}"
    assert f"the minimum detectable difference is {detectable}." in words
    needed = contrast.seeds_needed or 0
    assert f"a new comparison with {needed} seeds from 108 on (about " in words
    seconds = sum(arm.seconds_per_run for arm in analysis.arms)
    assert analysis.seconds(needed) == pytest.approx(needed * seconds + 2 * 6.5)
    planned = replace(made, config={**made.config, "max_seeds": needed})
    words = str(verdict(analyze(planned)))
    assert f"{needed - 8} more seeds (about " in words
    assert "new comparison" not in words


def test_seeds_beyond_the_plan_are_said_to_come_too_late():
    made = synthetic.comparison(("relu", "geglu"), seeds=12)
    late = "The level was planned for 8 seeds and is spent"
    assert late in str(verdict(analyze(replace(made, looks=(8, 12)))))
    assert late not in str(verdict(analyze(made)))
    planned = {**made.config, "max_seeds": 12}
    assert late not in str(verdict(analyze(replace(made, looks=(8, 12), config=planned))))


def test_a_smoke_test_draws_no_conclusion():
    analysis = analyze(synthetic.comparison(protocol="smoke test"))
    words = verdict(analysis)
    assert not any(contrast.found for contrast in analysis.contrasts)
    assert not analysis.significant
    assert words.headline == "Smoke test: no conclusion is drawn."
    assert words.order == ""
    assert "p =" not in str(words)
    assert "Inconclusive" not in str(words)


def test_identical_arms_are_told_so():
    made = synthetic.comparison(("relu", "gelu"), rates=())
    relu = made.runs_of("relu")
    analysis = analyze(replace(made, runs=relu + tuple(replace(run, arm="gelu") for run in relu)))
    (contrast,) = analysis.contrasts
    assert (contrast.mean, contrast.p_adjusted, contrast.interval) == (0, 1, (0, 0))
    assert "gelu: exactly the same loss as relu (8 paired seeds)." in str(verdict(analysis))
    assert "Inconclusive" in verdict(analysis).headline


def test_a_diverged_seed_is_said_and_not_averaged_in():
    made = synthetic.with_status(synthetic.comparison(), "swiglu", 103, "diverged")
    analysis = analyze(made)
    swiglu = analysis.contrasts[1]
    assert analysis.arms[2].diverged == (103,)
    assert 103 not in swiglu.seeds
    assert len(swiglu.seeds) == 7
    assert math.isfinite(analysis.arms[2].mean)
    assert not swiglu.found
    words = str(verdict(analysis))
    assert "swiglu: 1 of 8 seeds diverged (not in its mean)." in words
    assert "No conclusion: a run diverged" in words
    assert words.startswith(
        "gelu reaches a significantly lower validation loss than relu; "
        "no conclusion about swiglu, because a run diverged."
    )


def test_a_run_that_stopped_early_is_censored():
    """Its last loss is in no mean and no test, whatever it is, and the words say why."""
    made = synthetic.with_status(synthetic.comparison(), "swiglu", 103, "stopped")
    analysis = analyze(made)
    gelu, swiglu = analysis.contrasts
    assert (analysis.arms[2].stopped, swiglu.censored, swiglu.found) == ((103,), True, False)
    assert 103 not in swiglu.seeds
    assert math.isnan(swiglu.p_adjusted)
    assert math.isnan(swiglu.speed_up)
    assert gelu.found
    assert [arm.arm.name for arm in analysis.order] == ["gelu", "relu"]
    words = str(verdict(analysis))
    assert words.startswith(
        "gelu reaches a significantly lower validation loss than relu; "
        "no conclusion about swiglu, because a run stopped early."
    )
    loss = synthetic.run("swiglu", 103, 3e-3, status="stopped").final_loss
    assert (
        "swiglu: 1 of 8 seeds stopped early, at step 700, with a validation loss of "
        f"{loss:.{analysis.decimals}f} (censored: not in its mean)."
    ) in words
    assert "No conclusion: a run stopped early, so its final loss is not known" in words
    assert "(1 stopped early)" in results_table(analysis).rows[2][1]
    assert "1 run stopped early" in methods(analysis)
    assert "stopped early" not in methods(analyze(synthetic.comparison()))


def test_a_comparison_of_which_every_run_stopped_early_says_so():
    made = synthetic.comparison(seeds=1)
    for arm in ("relu", "gelu", "swiglu"):
        made = synthetic.with_status(made, arm, 100, "stopped")
    assert verdict(analyze(made)).headline == "No run finished: all that ended stopped early."


def test_a_diverged_first_arm_allows_no_conclusion_at_all():
    made = synthetic.with_status(synthetic.comparison(), "relu", 103, "diverged")
    analysis = analyze(made)
    assert not any(contrast.found for contrast in analysis.contrasts)
    assert verdict(analysis).headline == (
        "No conclusion about gelu and swiglu, because a run diverged."
    )


def test_an_arm_that_diverged_on_every_seed_leaves_the_others_standing():
    made = synthetic.comparison()
    for seed in range(100, 108):
        made = synthetic.with_status(made, "gelu", seed, "diverged")
    analysis = analyze(made)
    assert [arm.arm.name for arm in analysis.order] == ["swiglu", "relu"]
    words = str(verdict(analysis))
    assert "gelu: no seed finished for both gelu and relu." in words
    assert "swiglu reaches a significantly lower" in words


def test_interrupted_and_missing_seeds_are_noted():
    made = synthetic.with_status(synthetic.comparison(), "gelu", 101, "interrupted")
    made = replace(made, runs=tuple(r for r in made.runs if (r.arm, r.seed) != ("swiglu", 102)))
    analysis = analyze(made)
    assert len(analysis.contrasts[0].seeds) == len(analysis.contrasts[1].seeds) == 7
    words = str(verdict(analysis))
    assert "gelu: 1 of 8 seeds not finished." in words
    assert "swiglu: 1 of 8 seeds missing." in words


def test_a_best_rate_at_the_edge_is_said():
    words = str(verdict(analyze(synthetic.comparison(rates=(3e-3, 1e-2)))))
    assert "relu: its best learning rate, 0.003, is at the edge of the grid." in words


def test_rates_that_were_not_tuned_are_said():
    assert "not tuned for each arm" in str(verdict(analyze(synthetic.comparison(rates=()))))


def test_one_run_alone():
    words = verdict(analyze(synthetic.comparison(("relu",), 1, ())))
    assert words.headline.startswith("relu reaches a validation loss of 2.")
    assert words.sentences == (
        "There is one arm with 1 seed, and no other arm to compare it with.",
    )
    assert words.order == ""


def test_nothing_finished():
    made = synthetic.comparison(("relu", "gelu"), 1, ())
    for arm in ("relu", "gelu"):
        made = synthetic.with_status(made, arm, 100, "interrupted")
    assert verdict(analyze(made)).headline.startswith("No run finished")


def with_significant(analysis: Analysis, *pairs: tuple[str, str]) -> Analysis:
    """The same analysis with other findings."""
    wanted = {frozenset(pair) for pair in pairs}
    family = tuple(replace(c, found=frozenset(c.weights) in wanted) for c in analysis.family)
    changed = replace(analysis, family=family)
    assert changed.significant == set(pairs)
    return changed


def test_the_order_says_each_significant_pair_once():
    """A sign between neighbours, or a pair of its own where the signs between do not say it."""

    def order(*pairs: tuple[str, str]) -> str:
        return verdict(with_significant(analyzed("full"), *pairs)).order

    low, high, both = ("swiglu", "gelu"), ("gelu", "relu"), ("swiglu", "relu")
    legend = "Order by mean loss (< significant, ≈ not significant): "
    assert order() == legend + "swiglu ≈ gelu ≈ relu."
    assert order(high) == legend + "swiglu ≈ gelu < relu."
    assert order(both) == legend + "swiglu ≈ gelu ≈ relu; also significant: swiglu < relu."
    assert order(high, both) == legend + "swiglu ≈ gelu < relu; also significant: swiglu < relu."
    assert order(low, high, both) == "Order by mean loss: swiglu < gelu < relu."


def test_significant_pairs_are_listed_by_their_lower_arm():
    analysis = analyze(synthetic.comparison(("relu", "silu", "gelu", "geglu", "swiglu"), rates=()))
    pairs = (("swiglu", "relu"), ("swiglu", "silu"), ("geglu", "silu"))
    words = verdict(with_significant(analysis, *pairs)).order
    assert words.endswith("; also significant: swiglu < relu and silu; geglu < silu.")


def test_methods_say_what_was_done():
    text = methods(analyzed("full"))
    for part in (
        "3 arms (relu, gelu and swiglu) were trained from 8 seeds (100 to 107)",
        "2,000 steps of 2,048 tokens", "best of 0.001, 0.003 and 0.01",
        "2 seeds (0, 1), none of which is reported", "an exact sign-flip test of the maximum",
        "all 3 arms, 3 pairs, are one family of tests", "within 1.7 %", "set to 8 before the first",
        "Optimizer: name = adamw, weight_decay = 0.1, warmup_steps = 100.", "Tukey's range test",
    ):  # fmt: skip
        assert part in text
    assert "sign-flip" not in methods(analyzed("one run"))
    assert "One arm (relu) was trained from 1 seed (100)" in methods(analyzed("one run"))
    assert "The learning rate (0.003) was not tuned." in methods(analyzed("one run"))
    assert "smoke test" in methods(analyzed("smoke test"))


def test_tuning_seeds_that_are_reported_are_said():
    runs = tuple(replace(r, seed=r.seed + 100 * (r.purpose == "tuning")) for r in FULL.runs)
    text = methods(analyze(replace(FULL, runs=runs)))
    assert "2 seeds (100, 101), some of which are reported." in text


def test_one_contrast_needs_no_adjustment():
    analysis = analyze(synthetic.comparison(("relu", "gelu"), rates=()))
    words = methods(analysis) + str(verdict(analysis)) + "".join(results_table(analysis).header)
    assert "adjust" not in words.replace("too short for few seeds and not adjusted", "")
    assert "the exact two-sided sign-flip test" in words
    assert "significant at p ≤ 0.05." in words


def test_the_run_of_a_comparison_is_described():
    """`Comparison.config` has the run in a section of its own, which the arms' paths lead into."""
    run = {"model": {"variant": "relu", "d_ff": None}, "batch_size": 32}
    arms = (FULL.first, *(replace(arm, difference={"model.variant": "x"}) for arm in FULL.arms[1:]))
    made = replace(FULL, arms=arms, config={"run": run, "match": "flops", "seeds": 8})
    text = methods(analyze(made))
    assert "Model: variant = relu." in text
    assert "Other settings: batch_size = 32." in text
    assert "match FLOPs per step" in text
    assert ("model.variant", "relu", "x", "x") in difference_table(analyze(made)).rows


def test_more_pairs_than_are_counted_exactly_are_said_to_be_sampled():
    analysis = analyzed("full")
    many = replace(analysis, looks=(Look(EXACT_PAIRS + 1, 0.05),))
    assert "a sampled sign-flip test" in methods(many)


def test_each_look_is_said_with_the_level_that_it_spent():
    made = synthetic.comparison(seeds=12)
    planned = replace(made, looks=(8, 12), config={**made.config, "max_seeds": 16})
    text = methods(analyze(planned))
    assert "evaluated 2 times, at 8, 12 seeds; 16 seeds were planned at most" in text
    assert "0.031 and 0.041 in all by each of them" in text
    assert "significant now at p ≤ 0.041" in text
    assert "only one on record" not in text
    words = str(verdict(analyze(planned)))
    assert "adjusted p = " in words
    late = methods(analyze(replace(made, looks=(8, 12))))
    assert "at 8, 12 seeds; 8 seeds were planned at most before the first evaluation" in late


def test_of_many_contrasts_those_found_have_a_sentence_and_the_others_share_one():
    found = {f"a{i}": {"swiglu": 1.0 + i / 10, "relu": -1.0 - i / 10} for i in range(7)}
    unclear = {f"b{i}": {"gelu": 1.0 + i / 10, "relu": -1.0 - i / 10} for i in range(7)}
    noisy = synthetic.comparison(noise=0.02)
    made = replace(noisy, config={**noisy.config, "contrasts": found | unclear})
    analysis = analyze(made)
    signs = {contrast.name: contrast.found for contrast in analysis.contrasts}
    names = [name for name, sign in signs.items() if sign], [n for n, s in signs.items() if not s]
    assert all(len(some) > 4 for some in names), signs
    words = verdict(analysis)
    assert words.headline == f"{len(names[0])} of 14 contrasts differ significantly from zero."
    assert [line.partition(":")[0] for line in words.sentences] == [*names[0], "Inconclusive"]
    assert words.sentences[-1].startswith(f"Inconclusive: {', '.join(names[1][:-1])} and ")
    assert "their minimum detectable differences are 0.0" in words.sentences[-1]
    few = verdict(analyze(replace(synthetic.comparison(seeds=3), config=made.config)))
    assert "paired seeds, no difference is significant. The table" in few.sentences[-1]


def test_contrasts_of_the_config_are_said_by_their_names():
    contrasts = {
        "gated": {"swiglu": 1.0, "relu": -0.5, "gelu": -0.5},
        "smooth": {"gelu": 1.0, "relu": -1.0},
    }
    analysis = analyze(replace(FULL, config={**FULL.config, "contrasts": contrasts}))
    words = verdict(analysis)
    headline = "2 of 2 contrasts differ significantly from zero: gated and smooth below it."
    assert words.headline == headline
    assert words.sentences[0].startswith("gated: −0.0")
    assert "smooth: gelu is 0.0" in words.sentences[1]
    assert "lower than relu" in words.sentences[1]
    assert words.order == ""
    assert "The 2 contrasts are one family of tests" in methods(analysis)
    assert not any("difference" in column for column in results_table(analysis).header)
    table = contrasts_table(analysis)
    assert table.header[:3] == ("contrast", "difference\n(95 % CI)", "adjusted p")
    assert [row[0] for row in table.rows] == ["gated", "smooth"]


def test_what_a_better_choice_of_rates_might_gain_is_said():
    analysis = analyzed("full")
    regrets = {arm.arm.name: arm.regret for arm in analysis.arms}
    assert all(0 <= regret < 0.1 for regret in regrets.values()), regrets
    (note,) = [n for n in verdict(analysis).notes if n.startswith("A better choice")]
    for arm, regret in regrets.items():
        assert f"{regret:.{analysis.decimals}f} ({arm})" in note
    arms = tuple(replace(arm, regret=1.0) for arm in analysis.arms)
    owed = str(verdict(replace(analysis, arms=arms)))
    assert "the difference of gelu and swiglu may be due to the rate." in owed
    small = tuple(replace(arm, regret=1e-4) for arm in analysis.arms)
    assert "less than each significant difference." in str(verdict(replace(analysis, arms=small)))
    assert "better choice" not in str(verdict(analyzed("smoke test")))


def test_a_change_after_an_evaluation_is_told_in_the_methods():
    change = Change(6, ("metric: training loss there, validation loss here",))
    text = methods(analyze(replace(FULL, changes=(change,))))
    assert "After an evaluation with 6 seeds the config was changed (metric: training loss" in text
    assert "was changed" not in methods(analyzed("full"))
