"""The environment in which ExecuTorch 1.4.1 reaches Qualcomm's library of a newer version, through adapter.c, and one in which
the library has a fault, through faults.c; both are made here."""

import pathlib
import shutil
import subprocess

COMPILER = shutil.which("cc")


def environment(library, folder):
    """Variables for a process that has ExecuTorch. `library`: where Qualcomm's is; `folder`: an empty one, to be kept."""
    return {"LD_LIBRARY_PATH": str(folder), "QNN_HTP": between(library, folder, "adapter.c")}


def faulty(library, folder, fault):
    """Variables for a lowbit whose library fails in this way."""
    return {"QNN_LIB_DIR": str(folder), "QNN_HTP": between(library, folder, "faults.c"), "QNN_FAULT": fault}


def between(library, folder, source):
    """Puts what is made of a source in the library's place in a folder. Gives the library behind it."""
    for path in pathlib.Path(library).glob("*.so*"):
        if path.name != "libQnnHtp.so":
            (folder / path.name).symlink_to(path)
    # By name and for good: another opening of libQnnHtp.so must find this, not the library behind it.
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-soname,libQnnHtp.so", "-Wl,-z,nodelete"]
    made, source = folder / "libQnnHtp.so", pathlib.Path(__file__).with_name(source)
    subprocess.run([COMPILER, *flags, "-o", made, source, "-ldl"], check=True)
    return str(pathlib.Path(library) / "libQnnHtp.so")
