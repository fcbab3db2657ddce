// A name service for the tests, as glibc loads it: it knows `$NAME_SERVICE/passwd`, does not answer while
// `$NAME_SERVICE/hangs` is there, and fails while `$NAME_SERVICE/fails` is.
#define _GNU_SOURCE
#include <errno.h>
#include <nss.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_there(const char *name) {
	char path[4096];
	snprintf(path, sizeof path, "%s/%s", getenv("NAME_SERVICE"), name);
	return access(path, F_OK) == 0;
}

enum nss_status _nss_test_getpwnam_r(const char *name, struct passwd *result, char *buffer, size_t length, int *error) {
	char path[4096];
	struct passwd *found = NULL;
	while (is_there("hangs"))
		usleep(20000);
	snprintf(path, sizeof path, "%s/passwd", getenv("NAME_SERVICE"));
	FILE *file = is_there("fails") ? NULL : fopen(path, "re");
	if (file == NULL) {
		*error = ECONNREFUSED;
		return NSS_STATUS_UNAVAIL;
	}
	while (fgetpwent_r(file, result, buffer, length, &found) == 0 && strcmp(found->pw_name, name) != 0)
		;
	fclose(file);
	return found != NULL ? NSS_STATUS_SUCCESS : NSS_STATUS_NOTFOUND;
}
