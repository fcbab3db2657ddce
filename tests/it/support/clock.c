/* Preloaded into a program, it sets that program's clock by as many seconds as the file says that CLOCK names. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *at)
{
	const char *path = getenv("CLOCK");
	char text[32] = "";

	if (syscall(SYS_clock_gettime, clock, at) != 0)
		return -1;
	if (clock == CLOCK_REALTIME && path != NULL) {
		int file = open(path, O_RDONLY | O_CLOEXEC);
		if (file >= 0) {
			if (read(file, text, sizeof text - 1) > 0)
				at->tv_sec += atol(text);
			close(file);
		}
	}
	return 0;
}
