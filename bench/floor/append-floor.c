/*
 * The least that a durable append costs: write a record, fdatasync, once more.
 *
 *   append-floor PATH RECORD_BYTES MILLISECONDS
 *
 * Appends to a new file at PATH and prints how long each append took, in nanoseconds, one a line. The first
 * ones are not printed: they make the file.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifdef __APPLE__
#define fdatasync(fd) fcntl(fd, F_FULLFSYNC)
#endif

enum { WARM_UP_APPENDS = 5 };

static void fail(const char *what) {
  fprintf(stderr, "%s: %s\n", what, strerror(errno));
  exit(1);
}

static uint64_t now(void) {
  struct timespec time;
  if (clock_gettime(CLOCK_MONOTONIC, &time) != 0) fail("clock_gettime");
  return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void append(int fd, const char *record, size_t bytes) {
  for (size_t written = 0; written < bytes;) {
    ssize_t count = write(fd, record + written, bytes - written);
    if (count < 0) fail("write");
    written += (size_t)count;
  }
  if (fdatasync(fd) != 0) fail("fdatasync");
}

int main(int count, char **arguments) {
  if (count != 4) {
    fprintf(stderr, "usage: %s PATH RECORD_BYTES MILLISECONDS\n", arguments[0]);
    return 2;
  }
  size_t bytes = strtoul(arguments[2], NULL, 10);
  uint64_t nanoseconds = strtoull(arguments[3], NULL, 10) * 1000000u;
  char *record = malloc(bytes);
  if (record == NULL || bytes == 0) fail("record");
  memset(record, 'x', bytes);
  record[bytes - 1] = '\n';

  int fd = open(arguments[1], O_WRONLY | O_CREAT | O_EXCL | O_APPEND, 0666);
  if (fd < 0) fail("open");
  for (int i = 0; i < WARM_UP_APPENDS; i++) append(fd, record, bytes);

  size_t appends = 0, room = 1024;
  uint64_t *latencies = malloc(room * sizeof *latencies);
  if (latencies == NULL) fail("malloc");
  uint64_t begun = now();
  for (uint64_t before = begun; before - begun < nanoseconds || appends == 0;) {
    append(fd, record, bytes);
    uint64_t after = now();
    if (appends == room) {
      latencies = realloc(latencies, (room *= 2) * sizeof *latencies);
      if (latencies == NULL) fail("realloc");
    }
    latencies[appends++] = after - before;
    before = after;
  }
  for (size_t i = 0; i < appends; i++) printf("%llu\n", (unsigned long long)latencies[i]);
  return fflush(stdout) == 0 ? 0 : 1;
}
