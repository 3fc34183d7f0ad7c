import signal
from contextlib import nullcontext

import pytest

from cxrlt.system.signals import Stopped, defer_signals, stop_if_requested, stop_on_signals, stop_requested


def test_a_signal_stops_at_once():
    with pytest.raises(Stopped) as caught, stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("went on")
    assert caught.value.exit_code == 143


def test_a_deferred_signal_stops_at_the_next_check():
    steps = []
    with pytest.raises(Stopped), stop_on_signals(), defer_signals():
        for step in range(3):
            stop_if_requested()
            if step == 1:
                signal.raise_signal(signal.SIGINT)
            steps.append(step)
    assert steps == [0, 1]
    assert not stop_requested()


def test_a_second_signal_stops_at_once():
    with pytest.raises(Stopped) as caught, stop_on_signals(), defer_signals():
        signal.raise_signal(signal.SIGINT)
        assert stop_requested()
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("went on")
    assert caught.value.exit_code == 143


@pytest.mark.parametrize("put_off_first", [True, False])
def test_sigterm_to_a_process_and_then_its_group_stops_it_once(put_off_first):
    saved = []
    with pytest.raises(Stopped), stop_on_signals(), defer_signals() if put_off_first else nullcontext():
        try:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            stop_if_requested()
        except Stopped:
            signal.raise_signal(signal.SIGTERM)
            saved.append(True)
            raise
    assert saved
    with pytest.raises(Stopped), stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("went on")


def test_a_signal_that_was_not_checked_stops_at_the_end():
    with pytest.raises(Stopped), stop_on_signals():
        with defer_signals():
            signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
