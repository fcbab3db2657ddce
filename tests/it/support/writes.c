/* Writes into a file in place, in one way, again and again: writes FILE COUNT SECONDS KIND

   Each time another key, or another length: the same change again and again would be taken for another program's. Says how
   many writes were made; ends with 77 and a word where the kernel or the file system does not have this way. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static const char *file;
static char link_name[4096], own_name[4096], line[128];
static int round_number;

static void made(int holds, const char *what)
{
    if (holds)
        return;
    int missing = errno == EOPNOTSUPP || errno == ENOSYS || errno == EPERM || errno == EINVAL || errno == EXDEV;
    printf("%s: %s\n", what, strerror(errno));
    exit(missing ? 77 : 1);
}

static int opened(const char *name, int flags)
{
    int descriptor = open(name, flags, 0600);
    made(descriptor >= 0, "open");
    return descriptor;
}

/* A file of the writer's own with the line in it. */
static int source(void)
{
    int own = opened(own_name, O_RDWR | O_CREAT | O_TRUNC);
    made(write(own, line, strlen(line)) > 0, "write its own");
    lseek(own, 0, SEEK_SET);
    return own;
}

static void appends(void)
{
    int out = opened(file, O_WRONLY | O_APPEND);
    made(write(out, line, strlen(line)) > 0, "append");
    close(out);
}

static void rewrites(void)
{
    int out = opened(file, O_WRONLY | O_CREAT | O_TRUNC);
    made(write(out, line, strlen(line)) > 0, "write");
    close(out);
}

static void truncates(void)
{
    made(truncate(file, 160 + round_number % 97) == 0, "truncate");
}

static void writes_a_vector(void)
{
    struct iovec parts[2] = {{line, 20}, {line + 20, strlen(line) - 20}};
    int out = opened(file, O_RDWR);
    made(pwritev(out, parts, 2, round_number % 300) > 0, "pwritev");
    close(out);
}

static sigjmp_buf too_late;

static void is_too_late(int signal)
{
    siglongjmp(too_late, signal);
}

static void stores(void)
{
    int out = opened(file, O_RDWR);
    char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, out, 0);
    made(mapped != MAP_FAILED, "mmap");
    close(out);
    /* Another writer may have truncated it. */
    signal(SIGBUS, is_too_late);
    if (!sigsetjmp(too_late, 1)) {
        memcpy(mapped, line, strlen(line));
        made(msync(mapped, 4096, MS_SYNC) == 0, "msync");
    }
    munmap(mapped, 4096);
}

static void writes_through_a_link(void)
{
    int linked;
    unlink(link_name);
    do
        linked = link(file, link_name);
    while (linked && errno == ENOENT); /* Another file got the name meanwhile. */
    made(linked == 0, "link");
    int out = opened(link_name, O_WRONLY | O_APPEND);
    made(write(out, line, strlen(line)) > 0, "write through a link");
    close(out);
}

static void reopens(void)
{
    char name[64];
    int in = opened(file, O_RDONLY);
    snprintf(name, sizeof name, "/proc/self/fd/%d", in);
    int out = opened(name, O_WRONLY | O_APPEND);
    made(write(out, line, strlen(line)) > 0, "write to what is open already");
    close(out);
    close(in);
}

static void punches(void)
{
    int out = opened(file, O_RDWR);
    made(fallocate(out, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, round_number % 300, 200) == 0, "punch a hole");
    close(out);
}

static void zeroes(void)
{
    int out = opened(file, O_RDWR);
    made(fallocate(out, FALLOC_FL_ZERO_RANGE, round_number % 300, 200) == 0, "zero a range");
    close(out);
}

static void copies(void)
{
    int in = source(), out = opened(file, O_WRONLY);
    loff_t at = 0;
    made(copy_file_range(in, NULL, out, &at, strlen(line), 0) > 0, "copy_file_range");
    close(out);
    close(in);
}

static void sends(void)
{
    int in = source(), out = opened(file, O_WRONLY);
    made(sendfile(out, in, NULL, strlen(line)) > 0, "sendfile");
    close(out);
    close(in);
}

static void splices(void)
{
    int ends[2], out = opened(file, O_WRONLY);
    made(pipe(ends) == 0, "pipe");
    made(write(ends[1], line, strlen(line)) > 0, "write into a pipe");
    made(splice(ends[0], NULL, out, NULL, strlen(line), 0) > 0, "splice");
    close(out);
    close(ends[0]);
    close(ends[1]);
}

/* Opens by the ring, writes by the ring; waits for each. */
static int by_ring(unsigned char call, int descriptor, const void *what, unsigned length, int flags)
{
    static struct io_uring_params with;
    static char *requests, *answers;
    static struct io_uring_sqe *entries;
    static int ring = -1;
    if (ring < 0) {
        ring = syscall(SYS_io_uring_setup, 4, &with);
        made(ring >= 0, "io_uring_setup");
        size_t size = with.sq_off.array + with.sq_entries * sizeof(unsigned);
        requests = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
        size = with.cq_off.cqes + with.cq_entries * sizeof(struct io_uring_cqe);
        answers = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
        size = with.sq_entries * sizeof *entries;
        entries = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
        made(requests != MAP_FAILED && answers != MAP_FAILED && entries != MAP_FAILED, "map the ring");
    }
    unsigned *tail = (unsigned *)(requests + with.sq_off.tail), *head = (unsigned *)(answers + with.cq_off.head);
    unsigned at = *tail % with.sq_entries;
    struct io_uring_sqe *entry = &entries[at];
    memset(entry, 0, sizeof *entry);
    entry->opcode = call;
    entry->fd = descriptor;
    entry->addr = (unsigned long)what;
    entry->len = length;
    entry->open_flags = flags;
    ((unsigned *)(requests + with.sq_off.array))[at] = at;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    made(syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 1, "io_uring_enter");
    struct io_uring_cqe *answer = (struct io_uring_cqe *)(answers + with.cq_off.cqes) + *head % with.cq_entries;
    int result = answer->res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    errno = result < 0 ? -result : 0;
    made(result >= 0, "io_uring");
    return result;
}

static void writes_by_ring(void)
{
    int out = by_ring(IORING_OP_OPENAT, AT_FDCWD, file, 0, O_WRONLY | O_APPEND);
    by_ring(IORING_OP_WRITE, out, line, strlen(line), 0);
    close(out);
}

static void only_opens(void)
{
    close(opened(file, O_RDWR));
}

/* Never waits: either it is told to come again, or it has the file. */
static void opens_without_waiting(void)
{
    int out = open(file, O_WRONLY | O_APPEND | O_NONBLOCK);
    if (out < 0 && errno == EWOULDBLOCK) {
        usleep(2000);
        return;
    }
    made(out >= 0, "open without waiting");
    made(write(out, line, strlen(line)) > 0, "append");
    close(out);
}

static const struct {
    const char *name;
    void (*once)(void);
} kinds[] = {
    {"append", appends}, {"rewrite", rewrites}, {"truncate", truncates}, {"pwritev", writes_a_vector},
    {"mapping", stores}, {"hard-link", writes_through_a_link}, {"reopen", reopens}, {"punch", punches}, {"zero", zeroes},
    {"copy-file-range", copies}, {"sendfile", sends}, {"splice", splices}, {"io-uring", writes_by_ring},
    {"open", only_opens}, {"nonblocking", opens_without_waiting},
};

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec / 1e9;
}

int main(int count, char **words)
{
    if (count != 5)
        return 2;
    file = words[1];
    snprintf(link_name, sizeof link_name, "%s-link-%d", file, getpid());
    snprintf(own_name, sizeof own_name, "%s-own-%d", file, getpid());
    int most = atoi(words[2]);
    double end = now() + atof(words[3]);
    for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++) {
        if (strcmp(kinds[kind].name, words[4]))
            continue;
        for (round_number = 0; round_number < most && now() < end; round_number++) {
            snprintf(line, sizeof line, "\nssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI%s%039d rogue\n",
                     (char[]){'a' + kind, 'a', 'a', 'a', 0}, round_number);
            kinds[kind].once();
        }
        unlink(link_name);
        unlink(own_name);
        printf("%d\n", round_number);
        return 0;
    }
    return 2;
}
