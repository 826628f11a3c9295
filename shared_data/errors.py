"""Whatever is wrong with a file or a setting reaches the user as one line."""
import errno
import os
import sys
import traceback


class InputError(Exception):
    """A file or setting that cannot be used. The message: which, what is wrong, what to do."""


def one_line(error):
    """The line shown for an `InputError` or an `OSError` (disk full, no permission, ...)."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}. {_advice(error)}"
    return " ".join(str(error).split())


def _advice(error):
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return "Give write permission, or name another folder."
    if isinstance(error, FileNotFoundError):
        return "Check the path."
    if isinstance(error, (FileExistsError, NotADirectoryError, IsADirectoryError)):
        return "Name another path."
    return "Free some space, or name another disk."


def run_script(main):
    """Exit with what `main()` returns (None is 0). Bad input: one line, exit code 2; `--debug` adds the traceback."""
    try:
        sys.exit(main())
    except (InputError, OSError) as error:
        if "--debug" in sys.argv:
            traceback.print_exc()
        print(f"{os.path.basename(sys.argv[0])}: error: {one_line(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on (train.py: add --resume)", file=sys.stderr)
        sys.exit(130)
