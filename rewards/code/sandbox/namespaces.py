"""Linux's own means by system call: namespaces, a root folder made for the purpose, privileges given up.

The calls are those that `unshare` and bubblewrap make; made here, they need neither program and no further process.
Where the kernel or a container forbids one, `OSError` says which.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = (0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
_RDONLY, _NOSUID, _NODEV, _NOEXEC, _BIND, _REC, _PRIVATE = (1, 2, 4, 8, 0x1000, 0x4000, 1 << 18)
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _DETACH = (442, -100, 0x8000, 2)  # the number is the same on all machines
_JOIN_SESSION_KEYRING = 1
_PDEATHSIG, _DUMPABLE, _CAPBSET_DROP, _SUBREAPER, _NO_NEW_PRIVS, _AMBIENT = (1, 4, 24, 36, 38, 47)
SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store", "/gnu/store")
_WORK = "/tmp/work"  # the candidate's folder
_DEVICES = ("null", "random", "urandom")  # not zero: a map of it is memory that no limit counts
TESTER, CANDIDATE = 2, 1  # user ids inside a user namespace
_SPARE_IDS = 1 << 30  # user ids that nobody has, two for each process id

_libc: Any = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def call(name: str, *arguments: Any) -> int:
    """What a function of the C library gives.

    Raises:
        OSError: it gives -1; its errno, with the name.
    """
    result = int(getattr(_libc, name)(*arguments))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def die_with_parent(signal_number: int) -> None:
    call("prctl", _PDEATHSIG, signal_number, 0, 0, 0)


def adopt_orphans() -> None:
    """Descendants whose parent ends become this process's children, wherever they hid (`setsid`, double fork)."""
    call("prctl", _SUBREAPER, 1, 0, 0, 0)


def hide_memory(hidden: bool = True) -> None:
    """No process of the same user may trace this one or read its memory, descriptors or environment."""
    call("prctl", _DUMPABLE, int(not hidden), 0, 0, 0)


def leave_keyring() -> None:
    """An empty session keyring instead of the trainer's; nothing where the kernel has none."""
    number = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine)
    if number is not None:
        with contextlib.suppress(OSError):
            call("syscall", number, _JOIN_SESSION_KEYRING, None)


def unshare(flags: int) -> None:
    call("unshare", flags)


def spare_ids() -> tuple[int, int] | None:
    """Two user ids for one run by root, its own where there is room; None for who is not root or has no others."""
    if os.geteuid() != 0:
        return None
    with open("/proc/self/uid_map") as lines:
        mapped = [[int(number) for number in line.split()] for line in lines]
    for first in (_SPARE_IDS + 2 * os.getpid(), 65533):
        if any(start <= first and first + 1 < start + count for start, _, count in mapped):
            return first, first + 1
    return None


def enter_namespaces(ids: tuple[int, int] | None) -> None:
    """Own users, network, IPC, host name, and processes for the children to come.

    `ids` are the outer ids of candidate and tester; without them both are the user, who can map no other.
    """
    flags = NEWUSER | NEWNET | NEWIPC | NEWUTS | NEWPID
    if ids is None:
        user, group = os.geteuid(), os.getegid()
        unshare(flags)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{CANDIDATE} {user} 1")
        _write("/proc/self/gid_map", f"{CANDIDATE} {group} 1")
    else:
        _let_parent_map(f"0 0 1\n{CANDIDATE} {ids[0]} 1\n{TESTER} {ids[1]} 1\n", lambda: unshare(flags))
    _write("/proc/sys/user/max_user_namespaces", "0")  # and none further down


def make_root(folders: list[str], *, processes: bool) -> None:
    """Own mounts: read-only system folders and `folders`, a small memory disk on /tmp, nothing else of the machine.

    `processes` mounts /proc of this process namespace, where the machine allows.
    """
    shown = _outermost([path for path in (*SYSTEM_FOLDERS, *folders) if os.path.isdir(path)])
    places = ("/mnt", "/media", "/srv", "/opt", "/tmp", "/var")
    root = next(place for place in places if os.path.isdir(place) and not any(f"{p}/".startswith(place) for p in shown))
    unshare(NEWNS)
    _mount("none", "/", None, _REC | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", _NOSUID, "size=1m,mode=755")
    for name in ("dev", "tmp", "proc"):
        os.mkdir(f"{root}/{name}")
    _mount("tmpfs", f"{root}/tmp", "tmpfs", _NOSUID | _NODEV, "size=64m,nr_inodes=4096,mode=1777")
    os.mkdir(f"{root}{_WORK}")
    os.chmod(f"{root}{_WORK}", 0o1777)
    for path in shown:
        if path in SYSTEM_FOLDERS and os.path.islink(path):
            os.symlink(os.readlink(path), root + path)
        else:
            os.makedirs(root + path)
            _mount(path, root + path, None, _BIND | _REC)
    for name in _DEVICES:
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, _BIND)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{root}/dev/{name}")
    _set_attributes(root, _RDONLY | _NOSUID, 0, _AT_RECURSIVE)
    _set_attributes(f"{root}/tmp", 0, _RDONLY, 0)
    if processes:
        with contextlib.suppress(OSError):  # a container that hides parts of its own /proc: then there is none
            _mount("proc", f"{root}/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    os.chdir(root)
    call("pivot_root", b".", b".")
    call("umount2", b".", _DETACH)
    os.chdir(_WORK)


def give_up_privileges(user: int | None) -> None:
    """Become `user` (None stays) for good, with no capability and no way to gain one."""
    call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    capability = 0
    while _libc.prctl(_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    call("prctl", _AMBIENT, 4, 0, 0, 0)  # clear all
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _let_parent_map(ids: str, unshare_users: Callable[[], None]) -> None:
    """Several ids can be mapped only from outside of the new namespace: by a child that stays behind."""
    ready, go = os.pipe()
    target = os.getpid()
    helper = os.fork()
    if helper == 0:
        os.close(go)
        os.read(ready, 1)  # until the other end is closed
        try:
            _write(f"/proc/{target}/uid_map", ids)
            _write(f"/proc/{target}/gid_map", ids)
        except OSError:
            os._exit(1)
        os._exit(0)
    os.close(ready)
    try:
        unshare_users()
    finally:
        os.close(go)
        _, status = os.waitpid(helper, 0)
    if status:
        raise OSError(1, "uid_map: user ids cannot be mapped")


def _mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    try:
        call(
            "mount",
            source.encode(),
            target.encode(),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            data.encode() or None,
        )
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} ({source})") from error


def _set_attributes(path: str, add: int, remove: int, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(add, remove, 0, 0)
    size = ctypes.c_size_t(ctypes.sizeof(attributes))
    call("syscall", _MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, size)


def _outermost(folders: list[str]) -> list[str]:
    """Without those that lie in others."""
    return [path for path in dict.fromkeys(folders) if not any(path.startswith(f"{other}/") for other in folders)]
