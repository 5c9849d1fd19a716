"""What a program may not ask of the kernel (seccomp), and which files it sees (Landlock): both need no privilege.

The filter closes what namespaces leave open: memory that no process maps and no limit counts (memfd, System V, POSIX
queues, shared anonymous maps), the keyring, priorities and limits of other processes, tracing. With limits only it also
keeps signals at home and the network shut, and Landlock shows the system's folders, read-only, and the program's own.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

from . import namespaces

# name: its number on (x86_64, aarch64)
_Numbers = tuple[int | None, int | None]
_NEVER: dict[str, _Numbers] = {
    # other processes: to look into, to slow down, to signal past `kill`; a session is a share of processors (autogroup)
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "tkill": (200, 130), "migrate_pages": (256, 238), "move_pages": (279, 239), "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122), "setpriority": (141, 140), "setsid": (112, 157),
    # namespaces, and large parts of the kernel that a program has no use for
    "unshare": (272, 97), "setns": (308, 268), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "bpf": (321, 280), "perf_event_open": (298, 241), "syslog": (103, 116), "fanotify_init": (300, 262),
    # keys, and memory outside of any process
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "mq_open": (240, 180),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196),
    "semget": (64, 190), "msgget": (68, 186),
}  # fmt: skip
_NOT_WITHOUT_NAMESPACES: dict[str, _Numbers] = {
    "socket": (41, 198),  # pairs of them stay
    # what Landlock lets pass on files that it does not show
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "utime": (132, None), "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None),
    "inotify_init": (253, None), "inotify_init1": (294, 26), "file_setattr": (469, 469),
}  # fmt: skip
_CLONE, _CLONE3, _MMAP, _PRLIMIT = (56, 220), (435, 435), (9, 222), (302, 261)
_KILL, _TGKILL, _FCNTL, _IOCTL = (62, 129), (234, 131), (72, 25), (16, 29)
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # place in the tables, the kernel's number
_NEW_OR_ELSEWHERE = 0x7E028000  # namespaces of clone, and CLONE_PARENT
_SHARED_ANONYMOUS = 0x21
_SENDS_SIGNALS = {
    _FCNTL: (8, 10, 15),
    _IOCTL: (0x8901, 0x8902),
}  # F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOSETOWN, SIOCSPGRP

_LOAD, _EQUAL, _ABOVE, _ANY, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06  # instructions of the filter
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in what a filter is given
_SET_SECCOMP, _FILTER = 22, 2

_RULESET, _ADD_RULE, _RESTRICT = 444, 445, 446
_READ, _READ_FILE, _WRITE_FILE = 0b1101, 0b100, 0b10  # execute, read files and folders
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # how many rights on files each version knows; later ones have no more
_DEVICES = ("/dev/null", "/dev/random", "/dev/urandom")


def available() -> bool:
    """Whether both can be had here."""
    return bool(landlock_version()) and _machine() is not None and os.path.exists("/proc/sys/kernel/seccomp")


def install(*, namespaced: bool) -> None:
    """Refuse this process, and all that it starts, the calls above; nothing where the kernel has no filters.

    A call with an error is what a program sees, not its death: it may have another way that is allowed.
    """
    machine = _machine()
    if machine is None:
        return
    code = b"".join(_program(*machine, namespaced))
    instructions = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(instructions))
    try:
        namespaces.call("prctl", _SET_SECCOMP, _FILTER, ctypes.c_char_p(program), 0, 0)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):
            raise


def _machine() -> tuple[int, int] | None:
    known = sys.platform == "linux" and sys.maxsize > 1 << 32
    return _ARCHITECTURES.get(os.uname().machine) if known else None


def _program(place: int, architecture: int, namespaced: bool) -> list[bytes]:
    """The filter; whatever no rule refuses is allowed."""
    refuse = _step(_RETURN, _REFUSE | errno.EPERM)
    steps = [_step(_LOAD, _ARCHITECTURE), _step(_EQUAL, architecture, 1, 0), refuse, _step(_LOAD, _NUMBER)]
    if place == 0:
        steps += [_step(_ABOVE, 0x40000000, 0, 1), refuse]  # the calls of x32

    def rule(
        numbers: tuple[int | None, int | None], argument: int | None = None, test: list[bytes] | None = None
    ) -> None:
        body = [refuse]
        if argument is not None:
            body = [_step(_LOAD, _ARGUMENTS + 8 * argument), *(test or []), refuse, _step(_LOAD, _NUMBER)]
        if numbers[place] is not None:
            steps.extend([_step(_EQUAL, numbers[place] or 0, 0, len(body)), *body])

    for numbers in (_NEVER if namespaced else _NEVER | _NOT_WITHOUT_NAMESPACES).values():
        rule(numbers)
    rule(_CLONE, 0, [_step(_ANY, _NEW_OR_ELSEWHERE, 0, 1)])
    steps += [_step(_EQUAL, _CLONE3[place], 0, 1), _step(_RETURN, _REFUSE | errno.ENOSYS)]  # then clone is used
    rule(_MMAP, 3, [_step(_AND, _SHARED_ANONYMOUS), _step(_EQUAL, _SHARED_ANONYMOUS, 0, 1)])
    rule(_PRLIMIT, 0, [_step(_EQUAL, 0, 2, 0), _step(_EQUAL, os.getpid(), 1, 0)])
    if not namespaced:
        for numbers in (_KILL, _TGKILL):
            rule(numbers, 0, [_step(_EQUAL, 0, 2, 0), _step(_EQUAL, os.getpid(), 1, 0)])
        for numbers, commands in _SENDS_SIGNALS.items():
            for command in commands:
                rule(numbers, 1, [_step(_EQUAL, command, 0, 1)])
    return [*steps, _step(_RETURN, _ALLOW)]


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def landlock_version() -> int:
    """Of the kernel's Landlock; 0 where there is none."""
    if sys.platform != "linux":
        return 0
    try:
        return namespaces.call("syscall", _RULESET, None, ctypes.c_size_t(0), 1)
    except OSError:
        return 0


def show_only(folders: list[str], own: str, opened: list[int]) -> None:
    """This process and all that it starts see `folders` and what is `opened`, to read, and their `own`; none elsewhere.

    No process outside can be traced either. Where the kernel has no Landlock nothing changes.
    """
    version = landlock_version()
    if not version:
        return
    everything = (1 << _RIGHTS.get(version, 16)) - 1
    handled = struct.pack("=Q", everything)
    ruleset = namespaces.call("syscall", _RULESET, ctypes.c_char_p(handled), ctypes.c_size_t(len(handled)), 0)
    rules = [(path, _READ) for path in (*namespaces.SYSTEM_FOLDERS, *folders)] + [
        ("/proc/self", _READ),
        (own, everything),
    ]
    rules += [(path, _READ_FILE | _WRITE_FILE) for path in _DEVICES]
    for path, rights in rules:
        try:
            place = os.open(path, os.O_PATH)
        except OSError:  # not on this machine, or not for this user
            continue
        _allow(ruleset, place, rights)
        os.close(place)
    for place in opened:
        _allow(ruleset, place, _READ)
    namespaces.call("syscall", _RESTRICT, ruleset, 0)
    os.close(ruleset)


def _allow(ruleset: int, place: int, rights: int) -> None:
    rule = struct.pack("=Qi", rights, place)
    namespaces.call("syscall", _ADD_RULE, ruleset, 1, ctypes.c_char_p(rule), 0)
