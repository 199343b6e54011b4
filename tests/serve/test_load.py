"""Many requests at once, with changes going on: each answer is one that a single request gets."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from kblam import Triple
from kblam.serve.bases import Bases
from tests.generation.asking import FACTS
from tests.serve.served import base_of, meanwhile, serving

VALUES = {"a": "Euro", "b": "Franc", "c": "Mark", "d": "Crown"}


def test_32_requests_over_4_bases_while_they_change() -> None:
    bases = Bases(
        base_of(name, facts=[Triple("France", "currency", value), *FACTS[1:]]) for name, value in VALUES.items()
    )
    with serving(bases) as served:
        alone = {name: served.ask(base=name).json()["choices"][0]["message"]["content"] for name in VALUES}
        assert alone == {name: f"The currency of France is {value}." for name, value in VALUES.items()}
        revisions: list[int] = []

        def change(number: int) -> None:
            """The founder in every base; base d says another currency in turn."""
            for name in VALUES:
                path = f"/v1/knowledge/{name}/triples"
                triples = [{"name": "Project Nightjar", "property": "founder", "value": f"N{number}"}]
                if name == "d":
                    triples.append({"name": "France", "property": "currency", "value": f"Crown {number}"})
                response = served.client.post(path, json=triples)
                assert response.status_code == 200, response.text
                revisions.append(response.json()["revision"])

        def ask(number: int) -> None:
            name = "abcd"[number % 4]
            body = served.ask(base=name, stream=False).json()
            text, said = body["choices"][0]["message"]["content"], body["kblam"]
            assert said["knowledge_base"] == name
            if name == "d":  # what one revision says, with the evidence of the same one
                value = said["evidence"][0]["value"]
                assert value.startswith("Crown")
                assert text == f"The currency of France is {value}."
                number_of = said["revision"] - 1
                assert value == ("Crown" if number_of == 0 else f"Crown {number_of}")
            else:
                assert text == alone[name]

        with meanwhile(change), ThreadPoolExecutor(32) as pool:
            list(pool.map(ask, range(64)))
        assert max(revisions) > 3
