"""The record of a submission has the command that writes it again."""

import pytest

from cxrlt.submissions.record import SubmissionRecord

PLAIN = {"name": "one", "origin": "csv", "split": "test", "variant": "raw", "with_code": False}


@pytest.mark.parametrize(
    ("change", "flags"),
    [
        ({}, ""),
        ({"origin": "cxrlt2023"}, " --from cxrlt2023"),
        ({"variant": "f1"}, " --probabilities f1"),
        ({"variant": "calibrated", "with_code": True}, " --probabilities calibrated --with-code"),
        ({"partial": (0, 2)}, " --partial"),
        ({"partial": (), "with_code": True}, " --with-code --partial"),
    ],
)
def test_the_command_has_the_flags_that_differ_from_the_defaults(change: dict[str, object], flags: str):
    record = SubmissionRecord(**PLAIN | change, provenance={})
    challenge = "".join(["c", "sv"])  # an equal name, as another file has it
    assert record.command(challenge) == f"cxrlt submit one --challenge csv --split test{flags}"
