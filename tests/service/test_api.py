"""The OpenAPI document, and what happens to whoever takes it at its word, or does not: no answer is a 5xx."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance


@pytest.fixture(scope="module")
def api(served):
    return schemathesis.openapi.from_url(f"{served.address}/openapi.json")


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_no_answer_is_a_server_error(case, tokens):
    case.call_and_validate(
        headers={"Authorization": f"Bearer {tokens['admin']}"},
        checks=[not_a_server_error, status_code_conformance, content_type_conformance],
    )


def test_the_document_names_every_program_s_route(served, viewer):
    from test_routes import TABLE

    paths = {
        (method.upper(), path)
        for path, operations in viewer.get("/openapi.json").json()["paths"].items()
        for method in operations
    }
    for_programs = {each for each in TABLE if each[1].endswith((".json", ".csv", ".parquet", "/spec"))}
    assert paths == for_programs - {("GET", "/openapi.json"), ("GET", "/runs/{run_id}/sites.json")}
