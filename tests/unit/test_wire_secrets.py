"""Secrets are hidden however they are spelt, and what is none is left alone."""

from loadgen.wire.secrets import Secrets

KEY = 'sk-a/b"c-0123'


def test_a_secret_reads_as_its_name_however_json_spells_it():
    secrets = Secrets({"API key": KEY, "X-Tenant": "hunter2hunter2"})

    assert secrets.hide(f"Bearer {KEY}, hunter2hunter2.") == "Bearer [API key], [X-Tenant]."
    body = rb'{"plain":"sk-a/b\"c-0123","slashed":"sk-a\/b\"c-0123","other":"hunter2"}'
    assert (
        secrets.hide_in(body) == rb'{"plain":"[API key]","slashed":"[API key]","other":"hunter2"}'
    )


def test_a_placeholder_is_a_word_like_any_other():
    secrets = Secrets({"API key": "EMPTY", "X": None})

    assert not secrets
    assert secrets.hide("the cup is EMPTY") == "the cup is EMPTY"
