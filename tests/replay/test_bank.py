"""The bank: a ring that remembers the order of writing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from gaze_torchrl.replay import FeatureBank


@settings(deadline=None, max_examples=50)
@given(capacity=st.integers(2, 7), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_holds_the_last_rows_oldest_out_first(capacity, sizes):
    bank, written = FeatureBank(capacity), []
    for size in sizes:
        values = torch.arange(len(written), len(written) + size)
        bank.extend(TensorDict({"value": values}, [size]))
        written += values.tolist()
    rows = bank.rows
    assert len(bank) == len(rows) == min(capacity, len(written))
    assert torch.equal(rows["value"], rows["written"])
    assert sorted(rows["value"].tolist()) == written[-capacity:]


def test_rows_are_not_copied():
    bank = FeatureBank(4)
    bank.extend(TensorDict({"value": torch.zeros(4)}, [4]))
    first, second = bank.rows["value"], bank.rows["value"]
    assert first.data_ptr() == second.data_ptr()  # both alive: a copy would lie elsewhere


@settings(deadline=None, max_examples=50)
@given(capacity=st.integers(2, 7), sizes=st.lists(st.integers(1, 12), min_size=1, max_size=6))
def test_a_running_number_names_a_step_as_long_as_it_is_stored(capacity, sizes):
    bank = FeatureBank(capacity)
    for size in sizes:
        bank.extend(TensorDict({"value": torch.arange(bank.written, bank.written + size)}, [size]))
    number = torch.arange(bank.written)
    stored = bank.holds(number)
    assert number[stored].tolist() == sorted(bank.rows["value"].tolist())
    assert torch.equal(bank.rows["value"][bank.row(number[stored])], number[stored])


def test_bytes_per_step_are_those_of_the_storage():
    bank = FeatureBank(10)
    with pytest.raises(RuntimeError, match="empty"):
        bank.bytes_per_step  # noqa: B018
    bank.extend(TensorDict({"value": torch.zeros(3, 5), "members": {"pixels": torch.zeros(3, 7).byte()}}, [3]))
    assert bank.bytes_per_step == 5 * 4 + 7 + 8
    storage = bank._storage._storage
    assert 10 * bank.bytes_per_step == sum(column.untyped_storage().nbytes() for column in storage.values(True, True))


def test_empty_bank_says_what_to_do():
    with pytest.raises(RuntimeError, match="append TripletReplay"):
        FeatureBank(4).rows  # noqa: B018


def test_too_small():
    with pytest.raises(ValueError, match=r"bank\.capacity must be at least 2 steps, got 1"):
        FeatureBank(1)


def test_state_dict_round_trip_goes_on_where_it_was():
    bank, other = FeatureBank(5), FeatureBank(5)
    bank.extend(TensorDict({"value": torch.arange(7)}, [7]))
    other.load_state_dict(bank.state_dict())
    for each in (bank, other):
        each.extend(TensorDict({"value": torch.arange(10, 13)}, [3]))
    assert torch.equal(bank.rows["value"], other.rows["value"])
    assert torch.equal(bank.rows["written"], other.rows["written"])


def test_state_of_a_bank_of_another_capacity_is_refused():
    """A step's row is its number modulo the capacity: elsewhere it would be another step's."""
    bank = FeatureBank(4)
    bank.extend(TensorDict({"reward": torch.arange(6.0)}, [6]))
    for capacity in (3, 8):
        with pytest.raises(ValueError, match=f"a bank of 4 steps, this one holds {capacity}: keep bank.capacity"):
            FeatureBank(capacity).load_state_dict(bank.state_dict())
