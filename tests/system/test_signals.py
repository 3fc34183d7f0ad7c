import signal
from contextlib import nullcontext

import pytest

from cxrlt.system.signals import Stopped, asked_to_stop, put_off, stop_if_asked, stop_on_signals


def test_a_signal_stops_at_once():
    with pytest.raises(Stopped) as caught, stop_on_signals():
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("went on")
    assert caught.value.exit_code == 143


def test_while_put_off_a_signal_is_heeded_between_two_steps():
    steps = []
    with pytest.raises(Stopped), stop_on_signals(), put_off():
        for step in range(3):
            stop_if_asked()
            if step == 1:
                signal.raise_signal(signal.SIGINT)
            steps.append(step)
    assert steps == [0, 1]
    assert not asked_to_stop()


def test_a_second_signal_stops_at_once():
    with pytest.raises(Stopped) as caught, stop_on_signals(), put_off():
        signal.raise_signal(signal.SIGINT)
        assert asked_to_stop()
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("went on")
    assert caught.value.exit_code == 143


@pytest.mark.parametrize("put_off_first", [True, False])
def test_sigterm_to_a_process_and_then_its_group_stops_it_once(put_off_first):
    saved = []
    with pytest.raises(Stopped), stop_on_signals(), put_off() if put_off_first else nullcontext():
        try:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)
            stop_if_asked()
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
        with put_off():
            signal.raise_signal(signal.SIGINT)
        pytest.fail("went on")
