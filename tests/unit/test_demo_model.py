"""The demo's model and training: right gradients, and a resume that is exact to the last bit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runlease.demo import training as training_module
from runlease.demo.model import Shape, fresh_parameters, loss_and_gradients, mean_loss, write
from runlease.demo.prose import load_prose, parse_prose
from runlease.demo.training import Recipe, Training

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_charlm.py"
SMALL = Recipe(steps=400, seed=3, batch=192, warmup_steps=20)


def test_gradients_agree_with_central_differences() -> None:
    random = np.random.default_rng(1)
    shape = Shape(alphabet=7, context=3, embedding=4, hidden=5)
    parameters = fresh_parameters(shape, random)
    contexts = random.integers(0, shape.alphabet, (6, shape.context))
    targets = random.integers(0, shape.alphabet, 6)

    loss, gradients = loss_and_gradients(parameters, contexts, targets)

    assert loss == mean_loss(parameters, contexts, targets)
    assert gradients.keys() == parameters.keys()
    for name, array in parameters.items():
        measured = np.zeros_like(array)
        for place in np.ndindex(array.shape):
            middle = array[place]
            array[place] = middle + 1e-5
            above = mean_loss(parameters, contexts, targets)
            array[place] = middle - 1e-5
            below = mean_loss(parameters, contexts, targets)
            array[place] = middle
            measured[place] = (above - below) / 2e-5
        np.testing.assert_allclose(gradients[name], measured, rtol=1e-5, atol=1e-9, err_msg=name)
        assert np.abs(gradients[name]).max() > 1e-4, f"{name}: a gradient of zeros would prove nothing"


@pytest.mark.parametrize("stop", [1, 100, 237])
def test_saved_loaded_and_continued_equals_uninterrupted_bit_for_bit(tmp_path: Path, stop: int) -> None:
    # Given a training that crosses two steps of its curriculum, when it is interrupted before, between or
    # after them, then metrics, parameters and Adam's moments have the bits of the uninterrupted one.
    whole = Training(SMALL)
    expected = [whole.train_step() for _ in range(300)]
    assert [expected[step]["chapters"] for step in (0, 100, 237)] == [1, 2, 3]

    first = Training(SMALL)
    measured = [first.train_step() for _ in range(stop)]
    first.save(tmp_path / "checkpoint.npz")
    first.train_step()  # what is done after the checkpoint must not leak into it
    second = Training.load(tmp_path / "checkpoint.npz")
    assert second.step == stop
    measured += [second.train_step() for _ in range(300 - stop)]

    assert measured == expected
    for part, named in whole._named_arrays().items():
        for name, array in named.items():
            assert array.tobytes() == second._named_arrays()[part][name].tobytes(), f"{part}/{name}"
    assert second.sample() == whole.sample()


@pytest.mark.parametrize("forgotten", ["first", "second", "updates", "random", "visited", "chapters", "order"])
def test_a_checkpoint_without_any_one_part_of_the_state_would_not_be_exact(tmp_path: Path, forgotten: str) -> None:
    """Show that the test above can see each part: a resume that loses it gives other metrics."""
    whole = Training(SMALL)
    for _ in range(130):
        whole.train_step()
    whole.save(tmp_path / "checkpoint.npz")
    fresh, resumed = Training(SMALL), Training.load(tmp_path / "checkpoint.npz")
    if forgotten in {"first", "second", "updates"}:
        setattr(resumed.adam, forgotten, getattr(fresh.adam, forgotten))
    else:
        setattr(resumed, forgotten, getattr(fresh, forgotten))

    steps = 100  # past the next shuffle, which is where the random generator is used
    assert [whole.train_step() for _ in range(steps)] != [resumed.train_step() for _ in range(steps)]


def test_a_save_that_fails_leaves_the_earlier_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.npz"
    training = Training(SMALL)
    training.save(path)
    training.train_step()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training_module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        training.save(path)

    assert Training.load(path).step == 0
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"]


def test_the_seed_decides_the_training() -> None:
    runs = [Training(replace(SMALL, seed=seed)).train_step() for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0]["loss"] != runs[2]["loss"]


def test_training_learns() -> None:
    training = Training(SMALL)
    losses = [training.train_step()["loss"] for _ in range(SMALL.steps)]
    # An untrained model knows nothing: about log(alphabet) nats. Letter frequencies alone give about 3.1.
    assert losses[0] > 0.95 * math.log(len(training.prose.alphabet))
    assert sum(losses[-50:]) / 50 < 2.7


def test_the_schedule_warms_up_then_falls_to_its_floor() -> None:
    recipe = Recipe(steps=1000, warmup_steps=100, peak_rate=1.0, floor_rate=0.1)
    rates = [recipe.learning_rate(step) for step in range(1001)]
    assert rates[0] == 0.01
    assert max(rates) == rates[99] == rates[100] == 1.0
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[550] == pytest.approx(0.55)
    assert rates[1000] == pytest.approx(0.1)


def test_the_curriculum_visits_each_place_once_a_time_through_and_never_the_held_out_end() -> None:
    training = Training(SMALL)
    seen: list[int] = []
    while training.chapters == 1:
        order, visited = training.order, training.visited
        training._next_batch()
        seen += order[visited : training.visited].tolist() if training.chapters == 1 else []
    batches = (training.prose.chapter_ends[0] - training.shape.context) // SMALL.batch
    assert len(seen) == len(set(seen)) == batches * SMALL.batch
    assert max(seen) < training.prose.chapter_ends[0]
    training.chapters = len(training.prose.chapter_ends)
    assert training._shuffled().max() == len(training.prose.codes) - training_module.HELD_OUT - 1


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.npz").write_bytes(b"not a zip archive")
    with pytest.raises(ValueError, match=r"pickle|not"):
        Training.load(tmp_path / "checkpoint.npz")
    with pytest.raises(FileNotFoundError):
        Training.load(tmp_path / "absent.npz")


def test_the_prose_is_the_book() -> None:
    prose = load_prose()
    text = "".join(prose.alphabet[code] for code in prose.codes)
    assert text.startswith("CHAPTER I\n\nDown the Rabbit-Hole\n\nAlice was beginning to get very tired")
    assert len(prose.chapter_ends) == 4
    assert prose.chapter_ends[-1] == len(text) > 40_000
    assert all(text[end:].startswith("CHAPTER ") for end in prose.chapter_ends[:-1])
    assert (prose.encode("Alice") == prose.codes[text.index("Alice") : text.index("Alice") + 5]).all()
    with pytest.raises(ValueError, match="not found"):
        prose.encode("Ω")


def test_a_text_is_split_at_its_chapter_headings_only() -> None:
    prose = parse_prose("CHAPTER I\nsee CHAPTER II\nCHAPTER II\nend\n")
    assert prose.chapter_ends == (25, 40)


def test_the_model_writes_characters_of_the_alphabet() -> None:
    random = np.random.default_rng(0)
    shape = Shape(alphabet=5, context=2, embedding=3, hidden=4)
    codes = write(fresh_parameters(shape, random), np.array([0, 1]), 40, random)
    assert codes.shape == (40,)
    assert set(codes.tolist()) <= set(range(5))


def test_the_example_is_the_trainer_that_the_demo_runs() -> None:
    packaged = Path(training_module.__file__).with_name("trainer.py")
    assert EXAMPLE.read_bytes() == packaged.read_bytes(), (
        "examples/train_charlm.py is the file that people copy; keep it and runlease/demo/trainer.py the same"
    )
