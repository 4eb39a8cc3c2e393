"""Networks from someone else whose files are whole, but are not those of the network that is made from them."""

import pytest
import torch

from prunecca.errors import ConfigurationError, CorruptFile
from prunecca.models import build
from prunecca.pruning.rewind import Snapshot
from prunecca.storage.states import digest, state_bytes
from prunecca.study.checkpoint import TRAINING, Checkpoint
from prunecca.study.level import REWIND, STATE
from prunecca.study.plan import Parent
from prunecca.study.reporter import Reporter
from prunecca.study.study import Workers


class Told(Reporter):
    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)


def test_tensors_of_another_network_are_refused():
    model = build("digits2", seed=0)
    state = model.state_dict()
    assert digest(Parent({STATE: state_bytes(state)}, "").state(STATE, model)) == digest(state)
    first = sorted(state)[0]
    wide = tuple(state[first].shape)
    for changed, words in (
        ({first: torch.zeros(3)}, rf"\(3,\) at '{first}'; expected \({wide[0]}"),
        ({"a-more": torch.zeros(3)}, r"\(3,\) at 'a-more'; expected nothing"),
    ):
        with pytest.raises(CorruptFile, match=f"^state.safetensors of a parent has .*{words}"):
            Parent({STATE: state_bytes(state | changed)}, "").state(STATE, model)
    del state[first]
    with pytest.raises(CorruptFile, match="has nothing at"):
        Parent({STATE: state_bytes(state)}, "").state(STATE, model)
    with pytest.raises(CorruptFile, match=r"a parent has no state\.safetensors"):
        Parent({}, "").state(STATE, model)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"model.w": torch.ones(2)}, {}),
        ({"other.w": torch.ones(2)}, {"epoch": 1, "optimizer": None, "schedule": None, "records": {}}),
        ({"model.w": torch.ones(2)}, {"epoch": 1, "optimizer": 3, "schedule": None, "records": {}}),
        (
            {"model.w": torch.ones(2)},
            {"epoch": 1, "optimizer": {"numbers": {}, "groups": [1]}, "schedule": 0, "records": {}},
        ),
    ],
)
def test_a_state_of_epoch_k_that_is_something_else_is_refused(tmp_path, tensors, metadata):
    content = state_bytes(tensors, metadata)
    with pytest.raises(CorruptFile, match=r"rewind\.safetensors"):
        Parent({REWIND: content}, "").rewind()
    (tmp_path / TRAINING).write_bytes(content)
    reporter = Told()
    assert Checkpoint(tmp_path, tmp_path).latest({}, reporter, "digits2 level 0") is None
    assert len(reporter.messages) == 1
    assert reporter.messages[0].endswith("digits2 level 0 is trained from its start")


def test_a_checkpoint_behind_a_link_is_not_taken(tmp_path):
    Snapshot(1, {"w": torch.ones(2)}, records={"origin": {}}).save(tmp_path / "elsewhere")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / TRAINING).symlink_to(tmp_path / "elsewhere")
    reporter = Told()
    assert Checkpoint(tmp_path / "run", tmp_path / "run").latest({}, reporter, "digits2 level 0") is None
    assert "is a link, where a file is expected" in reporter.messages[0]


@pytest.mark.parametrize(
    "given", [{"count": 10**9}, {"count": 0}, {"threads": 99999999}, {"gpus_per_network": float("nan")}]
)
def test_absurd_workers_are_refused(given):
    with pytest.raises(ConfigurationError, match=r"expected [01] to 4096"):
        Workers(**given)
