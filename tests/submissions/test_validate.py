import zipfile
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from cxrlt import cli
from cxrlt.artifacts import Workspace
from cxrlt.errors import UserError
from cxrlt.submissions.validate import max_submission_bytes, validate, validate_submission
from five_images import IDS

HEADER = "dicom_id,Mass,No Finding,Round(ed) Atelectasis"
ROWS = ["c,.1,.2,.3", "a,.4,.5,.6", "b,.7,.8,.9", "e,.11,.12,.13", "d,.14,.15,1e-9"]


def text_of(header: str = HEADER, rows: list[str] = ROWS) -> str:
    return "\n".join([header, *rows, ""])


def with_row(number: int, row: str) -> list[str]:
    return [row if place == number else old for place, old in enumerate(ROWS)]


@pytest.fixture
def problems_of(tmp_path, challenge):
    def problems(text: str) -> list[str]:
        path = tmp_path / "mine.csv"
        path.write_text(text)
        return validate_submission(path, challenge, IDS)

    return problems


def test_a_valid_file_has_no_problem(problems_of):
    assert problems_of(text_of()) == []


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (ROWS[:-1], "1 id of the template missing: d."),
        (ROWS[:2], "3 ids of the template missing: b, e, d."),
        ([*ROWS, "f,.1,.2,.3"], "1 id not in the template: f."),
        ([*ROWS, "c,.1,.2,.3"], "1 id duplicated: c."),
        (
            [ROWS[1], ROWS[0], *ROWS[2:]],
            "order of the rows differs from the template's: row 2 is 'a' but should be 'c'.",
        ),
        ([], "It has no rows below the header."),
        (with_row(1, "a,high,.5,.6"), "Text instead of a number: row 3, Mass ('high')."),
        (with_row(1, 'a,"0,4",.5,.6'), "Text instead of a number: row 3, Mass ('0,4')."),
        (with_row(1, "a,.4,nan,.6"), "No probability: row 3, No Finding ('nan')."),
        (with_row(1, "a,.4,,.6"), "No probability: row 3, No Finding ('')."),
        (with_row(1, "a,.4"), "No probability: row 3, No Finding (''), row 3, Round(ed) Atelectasis ('')."),
        (with_row(1, "a,.4,.5,inf"), "Infinite values: row 3, Round(ed) Atelectasis ('inf')."),
        (with_row(1, "a,1.2,.5,.6"), "Values outside [0, 1]: row 3, Mass ('1.2')."),
        (with_row(1, "a,-.2,.5,.6"), "Values outside [0, 1]: row 3, Mass ('-.2')."),
        (
            [f"{i},.5,.{n}1,.{n}2" for n, i in enumerate(IDS)],
            "Every row has the same value, so nothing can be ranked",
        ),
        ([f"{i},{n % 2},.{n}1,.{n}2" for n, i in enumerate(IDS)], "Only 0 and 1, but the metric ranks"),
        ([f"{i},{n - 2.5},.{n}1,-{n}.2" for n, i in enumerate(IDS)], "look like logits (apply a sigmoid)"),
    ],
)
def test_wrong_rows_and_values_are_refused_with_their_place(rows, sentence, problems_of):
    problems = problems_of(text_of(rows=rows))
    assert len(problems) == 1
    assert sentence in problems[0]


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ("dicom_id,No Finding,Mass,Round(ed) Atelectasis", "column 2 is 'No Finding' but should be 'Mass'"),
        ("Mass,dicom_id,No Finding,Round(ed) Atelectasis", "column 1 is 'Mass' but should be 'dicom_id'"),
        ("dicom_id,Mass,Normal,Round(ed) Atelectasis", "no column 'No Finding'; did you mean 'Normal'?"),
        ("dicom_id,Mass,No Finding,Rounded Atelectasis", "did you mean 'Rounded Atelectasis'?"),
        ("dicom_id,mass,No Finding,Round(ed) Atelectasis", "did you mean 'mass'?"),
        ("dicom_id, Mass,No Finding,Round(ed) Atelectasis", "did you mean ' Mass'?"),
        ("image,Mass,No Finding,Round(ed) Atelectasis", "no column 'dicom_id'; did you mean 'image'?"),
        ("dicom_id,Mass,Mass,Round(ed) Atelectasis", "Duplicate columns: 'Mass'"),
        (HEADER.replace(",", ";"), "separated by ';'"),
    ],
)
def test_wrong_columns_are_refused_by_name(header, sentence, problems_of):
    rows = ROWS if "," in header else [row.replace(",", ";") for row in ROWS]
    assert sentence in " ".join(problems_of(text_of(header, rows)))


def test_ids_that_differ_from_the_template_only_in_spelling_are_named(problems_of):
    missing, extra = problems_of(text_of(rows=with_row(0, "C,.1,.2,.3")))
    assert missing == (
        "1 id of the template missing: c. 1 of them differs only in spelling (case, slashes or form of "
        "Unicode), as 'c' here, 'C' there: use the same spelling."
    )
    assert extra == "1 id not in the template: C."


def test_a_missing_and_an_extra_class_are_both_named(problems_of):
    short = [row.rsplit(",", 1)[0] for row in ROWS]
    assert problems_of(text_of("dicom_id,Mass,No Finding", short)) == [
        "There is no column 'Round(ed) Atelectasis'."
    ]
    extra = problems_of(text_of(HEADER + ",Goiter", [row + ",.5" for row in ROWS]))
    assert extra == ["Columns that the template does not have: 'Goiter'."]


def test_all_problems_of_a_file_are_reported_at_once(problems_of):
    rows = ["c,.1,.2,x", "a,1.5,.5,.6", "z,.7,.8,.9"]
    found = " ".join(problems_of(text_of(HEADER.replace("Mass", "Masss"), rows)))
    for part in ("'Masss'", "ids of the template missing: b, e, d", "not in the template: z", "('x')"):
        assert part in found


def test_long_lists_end_with_the_count(tmp_path, challenge):
    path = tmp_path / "many.csv"
    ids = [f"i{n}" for n in range(50)]
    path.write_text(text_of(rows=[f"{i},nan,.{n}1,.{n}2" for n, i in enumerate(ids)]))
    problems = validate_submission(path, challenge, [*ids, *(f"j{n}" for n in range(1200))])
    assert problems[0].startswith("1,200 ids of the template missing: j0, j1, ")
    assert problems[0].endswith("j9 … (1200 in all).")
    assert problems[1].endswith("row 11, Mass ('nan') … (50 in all).")


def test_a_single_row_is_not_called_constant(tmp_path, challenge):
    path = tmp_path / "one.csv"
    path.write_text(text_of(rows=ROWS[:1]))
    assert validate_submission(path, challenge, ["c"]) == []


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("", "is empty"), (b"\xff\xfe\x00", "UTF-8"), ("a,b\n1,2,3,4\n", "rows of equal length")],
)
def test_what_is_no_table_is_refused(tmp_path, challenge, content, sentence):
    path = tmp_path / "mine.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    [problem] = validate_submission(path, challenge, IDS)
    assert sentence in problem


def zip_of(folder: Path, compression: int = zipfile.ZIP_STORED, **members: str) -> Path:
    with zipfile.ZipFile(folder / "mine.zip", "w", compression) as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return folder / "mine.zip"


@pytest.mark.parametrize("members", [{"any.csv": text_of()}, {"a.csv": text_of(), "code/b/c.csv": "x"}])
def test_a_zip_with_one_csv_and_perhaps_code_is_valid(tmp_path, challenge, members):
    assert validate_submission(zip_of(tmp_path, **members), challenge, IDS) == []


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ({}, "has no CSV. It contains: nothing"),
        ({"submission.txt": "x"}, "has no CSV. It contains: submission.txt"),
        ({"a.csv": text_of(), "b.csv": text_of()}, "has more than one CSV: a.csv, b.csv"),
        ({"results/a.csv": text_of()}, "has its CSV in a folder (results/a.csv)"),
        ({"a.csv": text_of(), "notes.txt": "x"}, "contains notes.txt; only code/ is allowed next to the CSV"),
        ({"a.csv": text_of(rows=ROWS[:-1])}, "1 id of the template missing: d"),
    ],
)
def test_a_zip_with_the_wrong_members_is_refused(tmp_path, challenge, members, sentence):
    [problem] = validate_submission(zip_of(tmp_path, **members), challenge, IDS)
    assert sentence in problem


def test_a_damaged_or_false_zip_is_refused(tmp_path, challenge):
    path = tmp_path / "mine.zip"
    path.write_text(text_of())
    assert "is not a zip file" in validate_submission(path, challenge, IDS)[0]
    content = zip_of(tmp_path, **{"a.csv": text_of()}).read_bytes()
    path.write_bytes(content.replace(b"c,.1,.2", b"c,.9,.2"))
    assert "cannot be unpacked" in validate_submission(path, challenge, IDS)[0]
    packed = zip_of(tmp_path, zipfile.ZIP_DEFLATED, **{"a.csv": text_of()}).read_bytes()
    for place in range(40, 60):
        path.write_bytes(packed[:place] + bytes([packed[place] ^ 255]) + packed[place + 1 :])
        assert "cannot be unpacked" in validate_submission(path, challenge, IDS)[0]


def test_a_file_that_is_not_there_is_an_error(tmp_path, challenge):
    assert "does not exist" in validate_submission(tmp_path / "mine.csv", challenge, IDS)[0]


def test_validate_prints_one_line_for_a_valid_file_with_what_the_server_expects(tmp_path, challenge):
    path = tmp_path / "mine.csv"
    path.write_text(text_of())
    line = validate(path, challenge, "test", Workspace(tmp_path))
    assert line == f"{path}: valid for five test (5 rows, 3 classes); the server expects a zip file"
    packed = zip_of(tmp_path, **{"a.csv": text_of()})
    assert "the server expects" not in validate(packed, challenge, "test", Workspace(tmp_path))


def test_validate_lists_all_problems_line_by_line(tmp_path, challenge):
    path = tmp_path / "mine.csv"
    path.write_text(text_of(rows=with_row(0, "z,.1,.2,nan")))
    with pytest.raises(UserError) as raised:
        validate(path, challenge, "test", Workspace(tmp_path))
    assert [line[:5] for line in str(raised.value).splitlines()[1:]] == ["  - 1", "  - 1", "  - N"]


def test_the_command_ends_with_2_for_a_file_the_server_would_refuse_and_0_for_a_good_one(
    pair, tmp_path, capsys
):
    root = ["--root", str(pair.workspace.root)]
    cli.main(["submit", "one", "--challenge", "csv", *root])
    good = pair.workspace.submission_dir("csv", "one") / "submission.csv"
    cli.main(["validate", str(good), "--challenge", "csv", *root])
    assert "valid for csv test" in capsys.readouterr().out
    bad = tmp_path / "bad.csv"
    frame = pd.read_csv(good)
    frame.iloc[::-1].to_csv(bad, index=False)
    with pytest.raises(SystemExit) as stop:
        cli.main(["validate", str(bad), "--challenge", "csv", *root])
    assert stop.value.code == 2
    assert "order of the rows differs from the template's" in capsys.readouterr().err


def test_a_file_of_mostly_zeros_with_a_value_below_is_no_file_of_logits(problems_of):
    rows = [f"{i},{n - 1 if n < 2 else 0},0,.{n}2" for n, i in enumerate(IDS)]
    [outside, _] = problems_of(text_of(rows=rows))
    assert outside == "Values outside [0, 1]: row 2, Mass ('-1')."


def test_a_semicolon_in_a_name_is_no_separator_where_there_are_commas(problems_of):
    assert problems_of(text_of(HEADER.replace("dicom_id", "dicom;id"))) == [
        "There is no column 'dicom_id'; did you mean 'dicom;id'?",
        "Columns that the template does not have: 'dicom;id'.",
    ]


def test_a_file_may_have_64_bytes_per_cell_and_every_name_twice_beside_64_kilobytes(challenge):
    names = len("".join([HEADER.replace(",", ""), *IDS]))
    assert max_submission_bytes(challenge, IDS) == 65_536 + 64 * 6 * 4 + 2 * names


def test_where_the_highest_value_of_a_row_decides_rows_must_differ_and_classes_need_not(tmp_path, challenge):
    single = replace(challenge, task="single_label", metric="macro-F1")

    def problems(*values: str) -> list[str]:
        path = tmp_path / "mine.csv"
        path.write_text(text_of(rows=[f"{i},{values[n % len(values)]}" for n, i in enumerate(IDS)]))
        return validate_submission(path, single, IDS)

    assert problems("0,.4,.6", "0,.3,.7") == []
    assert problems("1,0,0", "0,1,0") == []
    assert problems(".2,.3,.5") == [
        "All rows have the same values, so one class is predicted for all of them."
    ]
    assert problems("0,-4,6", "0,3,-7")[0].startswith("These look like logits (apply a softmax): row 2")
