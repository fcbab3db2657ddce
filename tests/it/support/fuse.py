"""A file system of a process's own: fuse.py MOUNTPOINT UID SOURCE

The kernel has it as from `fusermount3 -o allow_other` run by UID. It shows what is in SOURCE. Files can be made in it, and
whoever writes into one never gets an answer: such a thread cannot even be killed.
"""

import ctypes
import errno
import os
import struct
import sys

place, uid, source = sys.argv[1], int(sys.argv[2]), sys.argv[3]
# As of <linux/fuse.h>.
LOOKUP, GETATTR, SETATTR, OPEN, READ, RELEASE, FLUSH, INIT, OPENDIR, READDIR, RELEASEDIR, CREATE = (
    1, 3, 4, 14, 15, 18, 25, 26, 27, 28, 29, 35)
FORGET, WRITE, INTERRUPT, BATCH_FORGET = 2, 16, 36, 42
MS_NOSUID_NODEV = 6

device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode={os.lstat(source).st_mode & 0o170000:o},user_id={uid},group_id={uid},allow_other"
if libc.mount(b"mine", place.encode(), b"fuse.mine", MS_NOSUID_NODEV, options.encode()):
    sys.exit(f"cannot mount: {os.strerror(ctypes.get_errno())}")
print("ready", flush=True)

paths = {1: source}


def attributes(path):
    stat = os.lstat(path)
    times = [int(stat.st_atime), int(stat.st_mtime), int(stat.st_ctime)]
    owner = (stat.st_uid, stat.st_gid)
    return struct.pack("<6Q10I", stat.st_ino, stat.st_size, 0, *times, 0, 0, 0, stat.st_mode, 1, *owner, 0, 4096, 0)


def entry(path, name):
    below = os.path.join(path, name.rstrip(b"\0").decode())
    number = os.lstat(below).st_ino
    paths[number] = below
    return struct.pack("<4Q2I", number, 0, 0, 0, 0, 0) + attributes(below)


def answer(operation, node, body):
    path = paths.get(node)
    if operation == LOOKUP:
        return entry(path, body)
    if operation == CREATE:
        name = body[16:]
        below = os.path.join(path, name.rstrip(b"\0").decode())
        os.close(os.open(below, os.O_CREAT | os.O_EXCL, 0o600))
        os.chown(below, os.lstat(path).st_uid, os.lstat(path).st_gid)
        return entry(path, name) + struct.pack("<Q2I", 0, 1, 0)
    if operation in (GETATTR, SETATTR):
        return struct.pack("<Q2I", 0, 0, 0) + attributes(path)
    if operation in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 0, 1, 0)
    if operation == READ:
        _, offset, size = struct.unpack_from("<QQI", body)
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(size)
    if operation in (RELEASE, RELEASEDIR, FLUSH, READDIR):
        return b""
    raise OSError(errno.ENOSYS, "")


while True:
    request = os.read(device, 1 << 20)
    _, operation, unique, node = struct.unpack_from("<IIQQ", request)
    if operation in (FORGET, WRITE, INTERRUPT, BATCH_FORGET):
        continue
    try:
        if operation == INIT:
            reply = struct.pack("<4I2H2I2H8I", 7, 31, 0, 0, 16, 12, 65536, 1, 16, *[0] * 9)
        else:
            reply = answer(operation, node, request[40:])
        error = 0
    except OSError as failed:
        error, reply = -failed.errno, b""
    os.write(device, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)
