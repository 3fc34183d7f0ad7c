from cxrlt.challenges import get_challenge
from cxrlt.inputs.shared_patients import find_shared_patients, read_dev_and_test


def shared_patients(challenge, workspace):
    train = challenge.read("train", workspace.inputs_dir(challenge.name))
    return find_shared_patients(train, read_dev_and_test(challenge, workspace))


def test_shared_patients_are_named_by_split_with_their_training_images(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2", "p1", "p3"], dev=["p1", "p9"], test=["p3", "p1"])
    shared = shared_patients(get_challenge("csv", workspace.inputs_dir("csv")), workspace)
    assert shared.patients == {"dev": ("p1",), "test": ("p1", "p3")}
    assert shared.images.tolist() == ["train0", "train2", "train3"]
    assert "1 in dev, 2 in test; they have 3 of the 4 training images" in shared.summary()
    assert "1 in dev (p1), 2 in test (p1, p3); they have 3 of the 4 training images" in shared.summary(
        with_ids=True
    )


def test_disjoint_patients_are_reported_as_such(csv_workspace):
    workspace = csv_workspace(train=["p1", "p2"], dev=["p3"], test=["p4"])
    shared = shared_patients(get_challenge("csv", workspace.inputs_dir("csv")), workspace)
    assert shared.images.empty
    assert shared.summary() == "No patient of train is in dev or test."


def test_without_patients_an_image_in_both_splits_is_found(csv_workspace):
    workspace = csv_workspace(patients=False, train=["-", "-"])
    folder = workspace.inputs_dir("csv")
    (folder / "test.csv").write_text("image,Mass\ntrain1,0\n")
    shared = shared_patients(get_challenge("csv", folder), workspace)
    assert shared.images.tolist() == ["train1"]
    assert shared.patients == {"dev": (), "test": ("train1",)}
    assert "For dev and test only images were compared, as patients are unknown." in shared.summary()


def test_a_table_that_is_not_published_yet_is_left_out(demo_train_only):
    shared = shared_patients(get_challenge("demo"), demo_train_only)
    assert shared.patients == {}
    assert shared.summary() == "No patient of train is in another split."
