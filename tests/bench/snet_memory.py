"""Peak memory of preparing 512x512x200 cases with 2 workers, summed over all processes, over 1.5 GB.

    python -m tests.bench.run snet_memory
"""
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shared_data.phantoms import write_neck_cohort

LIMIT_GB = 1.5


def run():
    with tempfile.TemporaryDirectory() as folder:
        write_neck_cohort(Path(folder) / "raw", patients=2, size=512, slices=200)
        command = [sys.executable, "-m", "snet_neck_ln.process_data.data_process_lymph_node", "--workers", "2",
                   "--data-dir", f"{folder}/raw", "--prepared-dir", f"{folder}/prepared"]
        process, peak = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), 0.0
        while process.poll() is None:
            peak = max(peak, tree_gb(process.pid))
            time.sleep(0.02)
    assert process.returncode == 0
    return {f"peak memory of preparation / {LIMIT_GB} GB": peak / LIMIT_GB}


def tree_gb(pid):
    """Memory of a process and its descendants (proportional set size: shared pages count once)."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    own = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0) / 1e6
    return own + sum(tree_gb(int(child)) for child in children)
