from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

METADATA = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning"]


@pytest.fixture
def write_cxr_lt(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a CXR-LT table; `positives` are the classes per image, None: no labels.

    Image k belongs to patient 1000k, unless `patients` is given, and to study s5000k.
    """

    def write(
        name: str,
        ids: Sequence[str],
        classes: Sequence[str],
        positives: Mapping[str, Sequence[str]] | None,
        path_column: str = "path",
        patients: Sequence[str] | None = None,
    ) -> Path:
        patients = patients or [f"1000{k}" for k in range(len(ids))]
        lines = [[*METADATA, path_column, *(classes if positives is not None else [])]]
        for k, (image, patient) in enumerate(zip(ids, patients, strict=True)):
            path = f"files/p{patient[:2]}/p{patient}/s5000{k}/{image}.jpg"
            row = [image, patient, f"s5000{k}", "AP", "antero-posterior", path]
            if positives is not None:
                row += ["1" if c in positives.get(image, ()) else "0" for c in classes]
            lines.append(row)
        (tmp_path / name).write_text("".join(",".join(line) + "\n" for line in lines))
        return tmp_path

    return write
