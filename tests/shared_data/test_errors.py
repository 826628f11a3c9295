"""What is wrong with a file is one line; what is wrong with the program comes with its traceback."""
import pytest

from shared_data.errors import InputError, run_script


def outcome(error, capsys):
    """(exit code, what stands on standard error) of a script that raises it."""
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    return stop.value.code, capsys.readouterr().err


@pytest.mark.parametrize("error, words", [
    (InputError("a.nii: empty. Fetch it again."), "error: a.nii: empty. Fetch it again."),
    (OSError(28, "No space left on device", "/x"), "error: /x: No space left on device. Free some space"),
    (RuntimeError("[enforce] Connection closed by peer"), "error: another process of this run ended"),
    (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "error: out of memory: CUDA"),
    (MemoryError(), "error: out of memory: no more to be had")])
def test_files_settings_and_machines_are_one_line(error, words, capsys):
    code, output = outcome(error, capsys)
    assert code == 2 and words in output and len(output.splitlines()) == 1


def test_a_fault_of_the_program_shows_its_traceback_then_says_what_it_is(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    code, output = outcome(KeyError("lr"), capsys)
    first, *_, last = output.splitlines()
    assert code == 2 and first == "Traceback (most recent call last):" and "raise error" in output
    assert last.endswith("error: rank 1: a fault of the program, see the traceback: KeyError: 'lr'")
