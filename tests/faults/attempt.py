"""One command in a process of its own, on a machine where something is wrong; and what it said and left."""
import ctypes
import importlib
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from shared_data.errors import run_script


@dataclass(frozen=True)
class Outcome:
    code: int  # exit code; -9: killed
    lines: list[str]  # on standard error, progress bars left out
    text: str  # on standard output


def attempt(module, argv, limit=None, heed_rights=False, kill_when=None, kill=None):
    """Run `module`.main(argv) as a script, in a fork of this process.

    limit: no file may grow beyond so many bytes (a full disk). heed_rights: as a user, also when run by root.
    kill_when: function of the seconds since its start; once true, kill(pid) is called until it says that it killed
    something; unset: it and its workers get SIGKILL.
    """
    main = importlib.import_module(module).main
    with tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as out:
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            os.dup2(err.fileno(), 2)
            os.dup2(out.fileno(), 1)
            sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # not what pytest put there
            sys.argv = [module]
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            if heed_rights and os.geteuid() == 0:
                _drop_capabilities()
            code = 70  # whatever else happens, this process ends here
            try:
                run_script(lambda: main([str(word) for word in argv]))
            except SystemExit as exit_:
                code = exit_.code or 0
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        os.setpgid(child, child)  # whoever of the two comes first
        start = time.perf_counter()
        while kill_when and not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if kill_when(time.perf_counter() - start) and (kill or kill_all)(child):
                break
            time.sleep(0.002)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for stream in (err, out):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    lines = [line.split("\r")[-1] for line in texts[0].splitlines()]
    return Outcome(code, [line for line in lines if line.strip() and not re.search(r"\d%\|", line)], texts[1])


def kill_all(pid):
    os.killpg(pid, signal.SIGKILL)
    return True


def kill_a_worker(pid):
    """SIGKILL to one worker process of `pid`; whether there was one."""
    workers = [child for child in psutil.Process(pid).children() if "spawn_main" in " ".join(_command(child))]
    if workers:
        random.choice(workers).kill()
    return bool(workers)


def _command(process):
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # it has just ended
        return []


def _drop_capabilities():
    """Give up root's CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH (Linux): rights of files count then."""
    class Header(ctypes.Structure):
        _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]

    header, data = Header(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    libc.capget(ctypes.byref(header), data)
    data[0] &= ~0b110  # effective
    libc.capset(ctypes.byref(header), data)


def files_in(folder):
    """{relative path: bytes} of what a script left, without settings, locks, logs and checkpoints."""
    skipped = ("config.json", ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*"))
            if path.is_file() and path.name not in skipped and "tensorboard" not in path.parts}
