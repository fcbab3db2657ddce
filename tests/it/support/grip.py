"""Holds the lock of a file, or of a directory, by a system call that never returns: its buffer is a mapping of a file in a FUSE
mount of this very program, which does not answer. It mounts, and does the rest as the ordinary user UID.

    grip.py UID MOUNTPOINT write FILE       a write to FILE
    grip.py UID MOUNTPOINT fiemap FILE      asks for the extents of FILE, which takes no right to write
    grip.py UID MOUNTPOINT list DIRECTORY   lists DIRECTORY

Says "held" once that is so, and holds until it is killed.
"""
import ctypes, mmap, os, struct, sys, threading, time

LIBC = ctypes.CDLL(None, use_errno=True)
PAGE = 4096
FIEMAP, GETDENTS64 = 0xC020660B, 217 if os.uname().machine == "x86_64" else 61


def mount(place, uid):
    """What fusermount3 does for an ordinary user where `/dev/fuse` is open to all; returns the descriptor of the device."""
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40000,user_id={uid},group_id={uid}"
    if LIBC.mount(b"grip", place.encode(), b"fuse", 0, options.encode()):
        sys.exit(f"cannot mount {place}: {os.strerror(ctypes.get_errno())}")
    return device


def attributes(node):
    mode, size = (0o40755, 0) if node == 1 else (0o100644, PAGE)
    return struct.pack("<6Q3I7I", node, size, 8, 0, 0, 0, 0, 0, 0, mode, 1, os.getuid(), os.getgid(), 0, PAGE, 0)


def serve(device):
    while True:
        try:
            request = os.read(device, 1 << 20)
        except OSError:  # The mount is gone.
            return
        _, call, unique, node = struct.unpack_from("<IIQQ", request)
        error, reply = 0, b""
        if call == 26:  # INIT
            _, minor, ahead, _ = struct.unpack_from("<4I", request, 40)
            reply = struct.pack("<4I2H2I2H8I", 7, min(minor, 31), ahead, 0, 0, 0, PAGE, 1, 0, 0, *[0] * 8)
        elif call == 1:  # LOOKUP
            reply = struct.pack("<4Q2I", 2, 0, 3600, 3600, 0, 0) + attributes(2)
        elif call == 3:  # GETATTR
            reply = struct.pack("<Q2I", 3600, 0, 0) + attributes(node)
        elif call in (14, 27):  # OPEN, OPENDIR
            reply = struct.pack("<Q2I", 1, 0, 0)
        elif call == 15:  # READ
            print("held", flush=True)
            continue
        elif call in (2, 36, 42):  # FORGET, INTERRUPT, BATCH_FORGET: without a reply
            continue
        else:
            error = -38
        os.write(device, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)


def main():
    uid, place, how, what = int(sys.argv[1]), *sys.argv[2:]
    device = mount(place, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    threading.Thread(target=serve, args=[device], daemon=True).start()
    source = os.open(f"{place}/page", os.O_RDONLY)
    mapping = mmap.mmap(source, PAGE, access=mmap.ACCESS_COPY)
    page = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    if how == "write":
        LIBC.write(os.open(what, os.O_WRONLY | os.O_APPEND), ctypes.c_void_p(page), 16)
    elif how == "list":
        LIBC.syscall(GETDENTS64, os.open(what, os.O_RDONLY | os.O_DIRECTORY), ctypes.c_void_p(page), PAGE)
    else:
        # The request is in front of the page, the extents are in it.
        buffer = LIBC.mmap
        buffer.restype = ctypes.c_void_p
        own = buffer(None, 2 * PAGE, 3, 0x22, -1, 0)
        LIBC.mmap(ctypes.c_void_p(own + PAGE), PAGE, 3, 0x12, source, 0)
        ctypes.memmove(own + PAGE - 32, struct.pack("<2Q4I", 0, 1 << 62, 0, 0, 16, 0), 32)
        LIBC.ioctl(os.open(what, os.O_RDONLY), ctypes.c_ulong(FIEMAP), ctypes.c_void_p(own + PAGE - 32))
    time.sleep(3600)


main()
