import pytest
import torch

import families
from st_plugins.errors import UnsupportedModelError
from st_plugins.position_tables import FAMILIES, PositionTable, extended_table, stretch


def extended(values, factor, method, dtype=torch.float32):
    table = torch.tensor(values, dtype=dtype)[:, None]
    return extended_table(table, factor, method).flatten().tolist()


def test_tables_by_hand():
    assert extended([0.0, 10.0, 20.0], 2, "interpolate") == [0.0, 5.0, 10.0, 15.0, 20.0, 20.0]
    assert extended([0.0, 1.0, 2.0], 2, "grouped") == [0, 0, 1, 1, 2, 2]
    assert extended([0.0, 1.0, 2.0], 2, "recurrent") == [0, 1, 2, 0, 1, 2]
    assert [stretch(512, length) for length in (513, 1024, 1025)] == [2, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_old_rows_stay_bit_for_bit(dtype):
    table = torch.randn(7, 5).to(dtype)
    for factor in (2, 3, 8):
        interpolated, grouped, recurrent = (
            extended_table(table, factor, m) for m in ("interpolate", "grouped", "recurrent")
        )
        assert torch.equal(interpolated[::factor], table)
        assert torch.equal(grouped[::factor], table)
        assert torch.equal(recurrent[:7], table)
        assert interpolated.dtype == dtype
        low, high = table[:-1].float(), table[1:].float()
        assert torch.allclose(interpolated[1::factor][:-1].float(), low + (high - low) / factor, atol=1e-2)


@pytest.mark.parametrize("method", ["interpolate", "grouped", "recurrent"])
def test_a_factor_of_one_changes_nothing(method):
    table = torch.randn(5, 3)
    assert torch.equal(extended_table(table, 1, method), table)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_position_is_the_row_that_the_network_takes(name):
    network = families.build(name)
    table = PositionTable.of(network)
    seen = []
    table.home.position_embeddings.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    network(input_ids=torch.tensor([[5, 6, 7]]))
    assert seen[0][0].tolist() == [table.offset, table.offset + 1, table.offset + 2]
    assert table.length == 64 - table.offset
    assert table.rows.shape[1] in (16, 32)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_longer_table_is_all_that_longer_texts_need(name):
    network = families.build(name)
    table = PositionTable.of(network)
    with pytest.raises((IndexError, RuntimeError)):
        network(input_ids=torch.full((1, 65), 5))
    before = table.home.position_embeddings.weight.clone()
    table.replace(extended_table(table.rows, 2, "recurrent"), network.config)
    after = PositionTable.of(network).home.position_embeddings
    assert network.config.max_position_embeddings == len(after.weight) == 2 * 64 - table.offset
    assert torch.equal(after.weight[:64], before)  # the row of padding among them
    assert network(input_ids=torch.full((1, 65), 5))[0].isfinite().all()


@pytest.mark.parametrize("name", ["t5", "deberta-v2"])
def test_positions_of_another_kind_are_refused(name):
    with pytest.raises(UnsupportedModelError, match="must have one learned table of absolute positions, as albert"):
        PositionTable.of(families.build(name))
