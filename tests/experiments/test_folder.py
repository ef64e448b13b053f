import json
import os

import pytest

import rankfall as rf
from rankfall.experiments._folder import ReportFolder

PARTS = ["delta-0", "delta-2"]
SETTINGS = {"replicates": 4, "label_noise": (0.0, 2.0)}


def taken(path, settings=None, overwrite=False, version="1.0"):
    return ReportFolder.prepare(
        path, "dichotomy", settings or SETTINGS, version=version, overwrite=overwrite, parts=PARTS
    )


def prepare(*arguments, **options):
    with taken(*arguments, **options) as report:
        return report


def test_a_new_folder_is_made_with_its_record(tmp_path):
    report = prepare(tmp_path / "deep" / "folder")
    record = json.loads((report.path / "settings.json").read_text())
    assert record["status"] == report.status == "running"
    assert record["settings"] == {"replicates": 4, "label_noise": [0.0, 2.0]}
    assert [file.name for file in report.path.iterdir()] == ["settings.json"]


def test_the_same_settings_are_continued(tmp_path):
    prepare(tmp_path).update(status="partial", command="x")
    assert prepare(tmp_path).status == "partial"
    assert prepare(tmp_path).record["command"] == "x"


def test_other_settings_are_shown_and_refused(tmp_path):
    prepare(tmp_path)
    with pytest.raises(rf.InvalidInput) as caught:
        prepare(tmp_path, {"replicates": 8, "label_noise": (0.0, 2.0)}, version="2.0")
    message = str(caught.value)
    assert "replicates: 4 there, 8 asked for" in message
    assert "rankfall version: 1.0 there, 2.0 now" in message
    assert "label noise" not in message
    assert "--overwrite" in message


def test_overwrite_removes_our_files_and_no_others(tmp_path):
    prepare(tmp_path).update(status="complete")
    for name in ("delta-2.nc", "delta-2.checkpoint", "index.html", "notes.txt", "other.nc"):
        (tmp_path / name).write_text("x")
    report = prepare(tmp_path, {"replicates": 8}, overwrite=True)
    assert report.status == "running"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["notes.txt", "other.nc", "settings.json"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_somebody_else_is_never_touched(tmp_path, overwrite):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(rf.InvalidInput, match="not empty and not a report of rankfall"):
        prepare(tmp_path, overwrite=overwrite)
    (tmp_path / "settings.json").write_text('{"theme": "dark"}')
    with pytest.raises(rf.InvalidInput, match="not a report"):
        prepare(tmp_path, overwrite=overwrite)
    (tmp_path / "settings.json").write_text("not json")
    with pytest.raises(rf.InvalidInput, match="not a report"):
        prepare(tmp_path, overwrite=overwrite)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["settings.json", "thesis.tex"]


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(rf.InvalidInput, match="is a file, not a folder"):
        prepare(tmp_path / "file")
    with pytest.raises(rf.OutputError, match="cannot make the folder"):
        prepare(tmp_path / "file" / "below")


def test_a_report_of_a_newer_version(tmp_path):
    prepare(tmp_path)
    record = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps(record | {"rankfall_report": 2}))
    with pytest.raises(rf.InvalidInput, match="newer rankfall"):
        prepare(tmp_path, overwrite=True)


@pytest.mark.skipif(os.name != "posix", reason="folders are locked on POSIX systems")
def test_two_processes_do_not_share_a_folder(tmp_path):
    with taken(tmp_path):
        for overwrite in (False, True):
            with pytest.raises(rf.InvalidInput, match="another rankfall is writing"):
                prepare(tmp_path, overwrite=overwrite)
    prepare(tmp_path)
