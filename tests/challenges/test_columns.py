import numpy as np
import pandas as pd
import pytest

from cxrlt.challenges import columns
from cxrlt.challenges.csv_file import read_csv
from cxrlt.errors import UserError
from user_errors import raises_user_error

CLASSES = ("Mass", "Pleural Effusion")


@pytest.fixture
def csv_of(tmp_path):
    def write(text):
        (tmp_path / "t.csv").write_text(text)
        return read_csv(tmp_path / "t.csv")

    return write


def table_of(file):
    return columns.build_table(
        file,
        image_id=columns.read_ids(file, "id"),
        patient=columns.read_ids(file, "patient"),
        study=columns.read_ids(file, "study"),
        view=None,
        path=columns.read_paths(file, "path"),
        class_labels=columns.read_labels(file, ["Mass"], required=True),
    )


def test_labels_are_found_by_name_and_a_blank_is_not_annotated(csv_of):
    file = csv_of("Pleural Effusion,id, Mass \n1,a,0\n,b,1.0\n0.0,c,\n")
    labels = columns.read_labels(file, CLASSES, required=True)
    assert list(labels.columns) == list(CLASSES)
    assert set(labels.dtypes) == {np.dtype(np.float32)}
    np.testing.assert_array_equal(labels, [[0, 1], [1, np.nan], [np.nan, 0]])


@pytest.mark.parametrize("label", ["-1", "2", "0.5", "yes", "nan"])
def test_any_other_label_is_refused_with_file_class_and_rows(csv_of, label):
    file = csv_of(f"id,Mass,Pleural Effusion\na,0,0\nb,0,{label}\nc,0,{label}\n")
    with pytest.raises(UserError) as error:
        columns.read_labels(file, CLASSES, required=True)
    assert str(file.path) in str(error.value)
    assert "'Pleural Effusion': a label must be 0, 1 or blank" in str(error.value)
    assert f"row 3 ('{label}'), row 4 ('{label}')" in str(error.value)


def test_a_single_label_row_is_one_class_or_not_annotated(csv_of):
    file = csv_of("id,Mass,Pleural Effusion\na,0,1\nb,,\nc,1,0\n")
    labels = columns.read_labels(file, CLASSES, required=True, task="single_label")
    np.testing.assert_array_equal(labels, [[0, 1], [np.nan, np.nan], [1, 0]])


@pytest.mark.parametrize(
    ("row", "shown"),
    [("1,1", "Mass, Pleural Effusion"), ("0,0", "no 1"), ("1,", "Mass, with blanks"), ("0,", "no 1, with")],
)
def test_a_single_label_row_of_another_number_of_classes_is_refused(csv_of, row, shown):
    file = csv_of(f"id,Mass,Pleural Effusion\na,0,1\nb,{row}\n")
    with raises_user_error("1 of 2", "row 3", shown):
        columns.read_labels(file, CLASSES, required=True, task="single_label")
    assert len(columns.read_labels(file, CLASSES, required=True)) == 2


def test_eleven_wrong_labels_show_ten_and_the_count(csv_of):
    file = csv_of("id,Mass\n" + "".join(f"i{k},-1\n" for k in range(11)))
    with pytest.raises(UserError, match=r"row 11 \('-1'\) … \(11 in all\)"):
        columns.read_labels(file, ["Mass"], required=True)


def test_a_renamed_class_is_answered_with_the_column_that_is_probably_meant(csv_of):
    file = csv_of("id,Mass,Pleural_effusion\na,0,0\n")
    for required in (True, False):
        with raises_user_error("Pleural Effusion", "'Pleural_effusion'"):
            columns.read_labels(file, CLASSES, required)


def test_a_missing_class_is_an_error_even_where_labels_are_optional(csv_of):
    with pytest.raises(UserError, match="no column for the class Pleural Effusion"):
        columns.read_labels(csv_of("id,Mass\na,0\n"), CLASSES, required=False)


def test_no_class_column_at_all_means_unlabelled_unless_labels_are_required(csv_of):
    file = csv_of("id,age\na,5\nb,6\n")
    assert columns.read_labels(file, CLASSES, required=False).isna().all(axis=None)
    with pytest.raises(UserError, match="no column for the classes Mass, Pleural Effusion"):
        columns.read_labels(file, CLASSES, required=True)


@pytest.mark.parametrize("number", ["12.0", "1.90E+38", "1.9e+38", "7.00", "2E-5"])
def test_an_id_that_a_spreadsheet_made_a_number_is_refused_with_its_rows_and_the_fix(csv_of, number):
    file = csv_of(f"id,patient\na,12\nb,{number}\n")
    with pytest.raises(UserError) as error:
        columns.read_ids(file, "patient")
    assert f"t.csv, column 'patient': a spreadsheet has turned ids into numbers in row 3 ('{number}')" in str(
        error.value
    )
    assert "import the column as text" in str(error.value)


def test_digits_leading_zeros_and_hexadecimal_ids_stay_as_they_are(csv_of):
    file = csv_of("id\n0012\n12\n12e34\n1.2.840.10008\ns50414267\n")
    assert columns.read_ids(file, "id").tolist() == ["0012", "12", "12e34", "1.2.840.10008", "s50414267"]


def test_a_blank_id_is_refused(csv_of):
    with pytest.raises(UserError, match=r"column 'patient': no id in row 3 \(''\)"):
        columns.read_ids(csv_of("id,patient\na,1\nb, \n"), "patient")


@pytest.mark.parametrize(
    "path", ["/data/a.jpg", "../a.jpg", "p/../../a.jpg", "p/..", "C:\\a.jpg", "..\\a.jpg", "\\a"]
)
def test_a_path_that_could_leave_the_images_folder_is_refused(csv_of, path):
    file = csv_of(f"path\nok/a.jpg\n{path}\n")
    with pytest.raises(UserError) as error:
        columns.read_paths(file, "path")
    assert "t.csv, column 'path'" in str(error.value)
    assert f"row 3 ({path!r})" in str(error.value)


def test_dots_inside_a_name_are_allowed(csv_of):
    assert columns.read_paths(csv_of("path\np..q/a..b.jpg\n./a.jpg\n"), "path").tolist() == [
        "p..q/a..b.jpg",
        "./a.jpg",
    ]


def test_a_table_has_text_metadata_and_float32_labels_under_image_ids(csv_of):
    table = table_of(csv_of("id,patient,study,path,Mass\nb,01,s1,b.jpg,1\na,02,s2,a.jpg,\n"))
    assert table.index.name == "image_id"
    assert table.index.tolist() == ["b", "a"]
    assert table.columns.tolist() == ["patient", "study", "view", "path", "Mass"]
    assert table.loc["b"].tolist() == ["01", "s1", "unknown", "b.jpg", 1.0]
    assert np.isnan(table.loc["a", "Mass"])
    assert table["Mass"].dtype == np.float32


def test_without_patients_all_are_unknown_and_without_studies_every_image_is_one(csv_of):
    file = csv_of("id,Mass\na,0\nb,1\n")
    ids = columns.read_ids(file, "id")
    table = columns.build_table(file, ids, None, None, None, ids, columns.read_labels(file, ["Mass"], True))
    assert table["patient"].isna().all()
    assert table["study"].tolist() == ["a", "b"]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ("a,1,s1,a.jpg,0\na,1,s1,a.jpg,0\n", "more than one row for an image: row 2 ('a'), row 3 ('a')"),
        (
            "a,1,s1,a.jpg,0\na,2,s2,c.jpg,0\n",
            "the same image for two patients: row 2 ('a', patient '1'), row 3",
        ),
        (
            "a,1,s1,a.jpg,0\nb,2,s2,a.jpg,0\n",
            "the same image file for two patients: row 2 ('a.jpg', patient '1')",
        ),
        (
            "a,1,s1,a.jpg,0\nb,2,s1,b.jpg,0\n",
            "the same study for two patients: row 2 ('s1', patient '1'), row 3",
        ),
    ],
)
def test_an_image_or_study_that_is_there_twice_is_refused_with_its_rows(csv_of, rows, sentence):
    with pytest.raises(UserError) as error:
        table_of(csv_of("id,patient,study,path,Mass\n" + rows))
    assert "t.csv has" in str(error.value)
    assert sentence in str(error.value)


def test_two_images_of_one_study_are_fine(csv_of):
    table = table_of(csv_of("id,patient,study,path,Mass\na,1,s1,a.jpg,0\nb,1,s1,b.jpg,0\n"))
    assert table["study"].tolist() == ["s1", "s1"]
    assert pd.Index(["a", "b"]).equals(table.index)
