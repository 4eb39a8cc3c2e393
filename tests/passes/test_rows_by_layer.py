"""Rows that count in some layers and not in others, as those of an encoder and of a decoder."""

import numpy as np
import pytest
import torch
from torch import nn

from prunecca import compare


class Both(nn.Module):
    """An encoder and a decoder whose sequences happen to be as long."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(3, 4), nn.Linear(3, 5)

    def forward(self, ids, decoder_ids):
        return self.encoder(ids).sum() + self.decoder(decoder_ids).sum()


def cka(x, y):
    x, y = x - x.mean(0), y - y.mean(0)
    return np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))


def setting():
    torch.manual_seed(0)
    one, two = Both().eval(), Both().eval()
    ids, decoder_ids = torch.randn(2, 30, 6, 3)
    masks = torch.rand(2, 30, 6) < torch.tensor([0.5, 0.7])[:, None, None]
    batch = {"ids": ids, "decoder_ids": decoder_ids, "encoder_mask": masks[0], "target_mask": masks[1]}
    return one, two, batch


def truth(one, two, batch, encoder, decoder):
    found = []
    for name, key, mask in (("encoder", "ids", encoder), ("decoder", "decoder_ids", decoder)):
        with torch.no_grad():
            x, y = (getattr(model, name)(batch[key]).double()[mask].numpy() for model in (one, two))
        found.append(cka(x, y))
    return found


def test_each_layer_has_the_rows_of_its_glob():
    one, two, batch = setting()
    rows = {"enc*": "encoder_mask", "decoder": lambda batch: batch["target_mask"]}
    table = compare(one, two, batch, ["encoder", "decoder"], ["linear_cka"], rows=rows, layout="nlc").table
    expected = truth(one, two, batch, batch["encoder_mask"], batch["target_mask"])
    np.testing.assert_allclose(table["value"], expected, atol=1e-6)
    assert table["count"].tolist() == [int(batch[key].sum()) for key in ("encoder_mask", "target_mask")]


def test_a_layer_without_a_glob_takes_all_rows_and_a_mask_of_the_data_set_does_as_well():
    one, two, batch = setting()
    rows = {"encoder": batch["encoder_mask"]}
    table = compare(one, two, batch, ["encoder", "decoder"], ["linear_cka"], rows=rows, layout="nlc").table
    expected = truth(one, two, batch, batch["encoder_mask"], torch.ones(30, 6, dtype=torch.bool))
    np.testing.assert_allclose(table["value"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "error", "sentence"),
    [
        ({"encoder": "mask"}, ValueError, "rows='mask' is not in a batch, which has the keys 'ids', "),
        ({"encoder": 3}, TypeError, "rows is a int for 'encoder'; expected a key of the batches"),
        ({"coder": "encoder_mask"}, ValueError, "rows are given for 'coder', which no compared layer matches"),
    ],
)
def test_what_is_no_choice_of_rows(rows, error, sentence):
    one, two, batch = setting()
    with pytest.raises(error, match=sentence):
        compare(one, two, batch, ["encoder", "decoder"], ["linear_cka"], rows=rows, layout="nlc")


def test_a_layout_for_no_layer_is_refused():
    one, two, batch = setting()
    with pytest.raises(
        ValueError, match="a layout is given for 'enc', which no layer that runs matches; expected names or"
    ):
        compare(one, two, batch, ["encoder", "decoder"], ["linear_cka"], layout={"enc": "nlc"})
