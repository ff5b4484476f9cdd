"""The OpenAPI document, and what happens to whoever takes it at its word, or does not: no answer is a 5xx."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from test_routes import TABLE

FOR_PROGRAMS = sorted(
    each
    for each in TABLE
    if each[1].endswith((".json", ".csv", ".parquet", "/spec"))
    and each[1] not in ("/openapi.json", "/runs/{run_id}/sites.json")
)


@pytest.fixture(scope="module")
def api(served):
    return schemathesis.openapi.from_url(f"{served.address}/openapi.json")


@pytest.mark.parametrize(("method", "path"), FOR_PROGRAMS, ids=lambda value: value)
def test_no_answer_is_a_server_error(api, tokens, method, path):
    headers = {"Authorization": f"Bearer {tokens['admin']}"}

    @given(case=api[path][method].as_strategy())
    @settings(
        max_examples=6, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def answers(case):
        case.call_and_validate(
            headers=headers, checks=[not_a_server_error, status_code_conformance, content_type_conformance]
        )

    answers()


def test_the_document_names_every_route_for_programs(viewer):
    document = viewer.get("/openapi.json").json()["paths"]
    found = sorted((method.upper(), path) for path, operations in document.items() for method in operations)
    assert found == FOR_PROGRAMS
