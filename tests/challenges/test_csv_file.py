import pytest

from cxrlt.challenges.csv_file import read_csv, read_lines
from cxrlt.errors import MissingFileError, UserError
from user_errors import raises_user_error


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_cell_is_text_stripped_of_blanks_and_rows_count_like_a_spreadsheet(tmp_path):
    file = read_csv(write(tmp_path / "t.csv", "id , n\n 007 ,1.50\n1e3,\n"))
    assert file.text("id").to_dict() == {2: "007", 3: "1e3"}
    assert file.text("n").tolist() == ["1.50", ""]


def test_a_byte_order_mark_windows_line_ends_quotes_and_unnamed_columns_are_read_through(tmp_path):
    file = read_csv(
        write(tmp_path / "t.csv", b'\xef\xbb\xbfid,,report,\r\na,0,"two\r\nlines, one cell",\r\n\r\n')
    )
    assert list(file.columns) == ["id", "report"]
    assert file.text("report").tolist() == ["two\r\nlines, one cell"]


def test_a_column_named_twice_is_refused_by_name(tmp_path):
    path = write(tmp_path / "t.csv", "id,Mass, Mass \na,0,1\n")
    with pytest.raises(UserError, match=r"t\.csv has several columns named 'Mass'"):
        read_csv(path)


def test_a_row_cut_short_is_refused_with_its_number(tmp_path):
    path = write(tmp_path / "t.csv", "id,Mass,Hernia\na,0,1\nb,0\n")
    with pytest.raises(UserError, match=r"t\.csv .*Row #3: Expected 3 columns, got 2"):
        read_csv(path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"", "is empty"), (b"id,name\n1,M\xe4rz\n", "is not in UTF-8: invalid byte 0xe4 in line 2")],
)
def test_an_empty_file_and_another_encoding_are_refused(tmp_path, content, sentence):
    with pytest.raises(UserError, match=rf"t\.csv {sentence}"):
        read_csv(write(tmp_path / "t.csv", content))


def test_a_header_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="a header but no rows"):
        read_csv(write(tmp_path / "t.csv", "id,Mass\n"))


def test_a_missing_file_is_named_with_the_place_that_explains_it(tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.csv does not exist\. docs/challenges\.md"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(MissingFileError, match=r"none\.txt does not exist"):
        read_lines(tmp_path / "none.txt")


def test_a_missing_column_is_answered_with_the_nearest_there(tmp_path):
    file = read_csv(write(tmp_path / "t.csv", "id,Subject_ID,age\na,1,2\n"))
    with raises_user_error("t.csv", "'subject_id'", "'Subject_ID'"):
        file.column("subject_id")
    with pytest.raises(UserError, match="it has id, Subject_ID, age"):
        file.column("dicom")


def test_an_optional_column_may_be_absent_but_not_misspelt(tmp_path):
    file = read_csv(write(tmp_path / "t.csv", "id,patient id\na,1\n"))
    assert file.optional_column("view") is None
    with pytest.raises(UserError, match="did you mean 'patient id'"):
        file.optional_column("patient_id")


def test_another_separator_is_recognised(tmp_path):
    with pytest.raises(UserError, match="separated by ';': save it with commas"):
        read_csv(write(tmp_path / "t.csv", "id;Mass\na;1\n")).column("id")


def test_a_list_keeps_its_order_and_refuses_a_repeated_line(tmp_path):
    assert read_lines(write(tmp_path / "l.txt", "b.png\r\n\r\na.png \n")) == ["b.png", "a.png"]
    with pytest.raises(UserError, match=r"l\.txt lists a\.png more than once"):
        read_lines(write(tmp_path / "l.txt", "a.png\nb.png\na.png\n"))


def test_header_cells_without_a_name_get_the_given_names_if_there_are_as_many(tmp_path):
    path = write(tmp_path / "t.csv", "id,,\na,1,0\n")
    assert list(read_csv(path, unnamed=["Mass", "Hernia"]).columns) == ["id", "Mass", "Hernia"]
    assert read_csv(path, unnamed=["Mass", "Hernia"]).text("Mass").tolist() == ["1"]
    assert list(read_csv(path, unnamed=["Mass"]).columns) == ["id"]
