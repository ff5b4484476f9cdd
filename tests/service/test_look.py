"""How tables read on a page."""

import pyarrow as pa

from bnsweep.analysis.queries import Column
from bnsweep.analysis.result import Result
from bnsweep.service.look import folded


def table(**columns):
    return Result(tuple(Column(name, "", "") for name in columns), pa.table(columns))


def test_what_is_the_same_in_all_rows_is_said_once():
    result = table(model=["a", "a", "a"], eta=[0.0, 0.1, 0.2], gone=pa.array([None] * 3, pa.int64()), n=[1, 8, 8])
    found = folded(result, skip=("n",))
    assert found.shown == [1]
    assert [(column.name, value) for column, value in found.same] == [("model", "a"), ("gone", None)]
    assert folded(result, fold=False).shown == [0, 1, 2, 3]


def test_a_table_never_loses_all_of_its_columns():
    assert folded(table(a=[1, 1], b=[2, 2])).shown == [0, 1]
    assert folded(table(a=[1], b=[2])).shown == [0, 1]
    assert folded(table(a=[], b=[])).shown == [0, 1]


def test_the_columns_that_say_what_a_row_is_about_are_one_on_a_phone():
    words = {"model": ["a", "b"], "targets": ["all", "weights"]}
    assert folded(table(**words, images=[0, 9], eta=[0.0, 0.1], n=[1, 8])).heads == [0, 1, 2, 3]
    assert folded(table(**words, n=[1, 8], device=["cpu", "gpu"])).heads == [0, 1]
    assert folded(table(n=[1, 8], model=["a", "b"])).heads == [0]
    assert folded(table(**words), fold=False).heads == [0]  # SQL of one's own: its columns are where they were put
