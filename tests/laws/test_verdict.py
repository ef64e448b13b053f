import json

import numpy as np
import pytest

from rankfall.laws import Verdict


def verdict(passed=True, **changes):
    values = {
        "law": "determinant law",
        "statement": "log det M_t = log det M_0",
        "predicted": 1.5,
        "measured": 1.5,
        "error": 1e-13,
        "tolerance": 1e-11,
        "passed": passed,
        "replicate": 3,
        "n_checked": 8,
        "time": 2.0,
        "errors": np.array([1e-13, np.nan]),
        "tolerances": np.array([1e-11, np.nan]),
    }
    return Verdict(**{**values, **changes})


@pytest.mark.parametrize(("passed", "word"), [(True, "PASS"), (False, "FAIL"), (None, "UNDECIDED")])
def test_a_verdict_reads_as_one_line_that_starts_with_its_outcome(passed, word):
    line = str(verdict(passed, note="2 of 8 replicates diverged"))
    assert line.startswith(f"{word} determinant law: log det M_t")
    assert "\n" not in line
    assert "replicate 3, worst of 8" in line
    assert line.endswith("| 2 of 8 replicates diverged")


def test_an_error_above_the_tolerance_is_shown_as_such():
    assert "error 1 > 1e-11 at t=2" in str(verdict(False, error=1.0))


def test_without_a_check_no_numbers_are_shown():
    assert "predicted" not in str(verdict(None, n_checked=0, replicate=-1))


def test_a_verdict_about_no_single_replicate_names_none():
    assert "replicate -1" not in str(verdict(replicate=-1))


def test_json_holds_everything_and_no_nan():
    text = json.dumps(verdict(error=np.inf).to_dict(), allow_nan=False)
    data = json.loads(text)
    assert data["status"] == "PASS"
    assert data["error"] is None
    assert data["errors"] == [1e-13, None]


def test_the_long_arrays_stay_out_of_the_repr():
    assert "errors" not in repr(verdict())
