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
