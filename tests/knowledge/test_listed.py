"""Numbers in a list are names where nothing else can be meant."""

from __future__ import annotations

import pytest

from kblam.knowledge.names import Names
from tests.timing import is_done_within

NAMES = ["Order 1005", "Order 1006", "Order 1007", "Order 2", "Boeing 747", "747", "Airbus A320", "Airbus A330", "B"]
NAMES += [
    "Boeing 777",
    "Twin 1",
    "Twin 2",
    "twin 2",
    "Lot 5",
    "Lot 6",
    "Lot No. 7",
    "Lot No. 8",
    "Orders 1",
    "Orders 2",
]


def meant(text: str) -> str:
    return Names(NAMES).as_meant(text, lambda _: False)


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("Status of Order 1005, 1006 and 1007?", "Status of Order 1005, Order 1006 and Order 1007?"),
        ("status of order 1005, 1006, and 1007?", "status of order 1005, Order 1006, and Order 1007?"),
        ("What status do Order 1005 and 1006 have?", "What status do Order 1005 and Order 1006 have?"),
        ("Order 1005 & 1006?", "Order 1005 & Order 1006?"),
        ("Order 1005, 1006, 1007", "Order 1005, Order 1006, Order 1007"),
        ("Status of orders 1005, 1006 and 1007?", "Status of Order 1005, Order 1006 and Order 1007?"),
        ("Orders 1 and 2, or Orders 1005 or 1007", "Orders 1 and Orders 2, or Order 1005 or Order 1007"),
        ("Airbus A320 or A330 and B", "Airbus A320 or Airbus A330 and B"),
        ("Lot No. 7 and 8, Lot 5 and 6", "Lot No. 7 and Lot No. 8, Lot 5 and Lot 6"),
        ("Order 1005, 1006 and 9999", "Order 1005, Order 1006 and 9999"),
    ],
)
def test_what_a_list_leaves_out_is_said(typed: str, read: str) -> None:
    assert meant(typed) == read
    assert meant(read) == read


@pytest.mark.parametrize(
    "typed",
    [
        "the price of Order 1005, 2 boxes of it",
        "Order 1005 and 1006.5",
        "Order 1005,1006",
        "Order 1005 1006",
        "Order 1005. 1006 and more",
        "Order 1005-1006",
        "orders 1005",
        "orders 1005 and 9999",
        "Order 9999 and 1006",
        "Boeing 777 or 747",  # 747 is a name too
        "Twin 1 and 2",  # of two names
        "1005, 1006",
        "Lot 5,6",
    ],
)
def test_what_may_be_something_else_stays(typed: str) -> None:
    assert meant(typed) == typed


@pytest.mark.parametrize("piece", ["1005, ", "Order 1005, ", "1005 and ", "1005" + " " * 50, ",  "], ids=ascii)
def test_a_long_list_takes_no_time(piece: str) -> None:
    assert is_done_within(5, lambda: meant("Order " + piece * 5000 + "1006"))
