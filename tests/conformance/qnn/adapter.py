"""The environment in which ExecuTorch 1.4.1 reaches Qualcomm's library of a newer version: through adapter.c, made here."""

import os
import pathlib
import shutil
import subprocess

COMPILER = shutil.which("cc")


def environment(library, folder):
    """Variables for a process that has ExecuTorch. `library`: where Qualcomm's is; `folder`: an empty one, to be kept."""
    source = pathlib.Path(__file__).with_suffix(".c")
    for path in pathlib.Path(library).glob("*.so*"):
        if path.name != "libQnnHtp.so":
            (folder / path.name).symlink_to(path)
    # By name and for good: another opening of libQnnHtp.so must find the adapter, not the library behind it.
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libQnnHtp.so", "-Wl,-z,nodelete"]
    subprocess.run([COMPILER, *flags, "-o", folder / "libQnnHtp.so", source, "-ldl"], check=True)
    return {"LD_LIBRARY_PATH": str(folder), "QNN_HTP": str(pathlib.Path(library) / "libQnnHtp.so")}
