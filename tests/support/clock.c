/*
 * A wall clock that a test can move while the process runs: loaded by LD_PRELOAD into a dynamically linked program, it
 * adds an offset to CLOCK_REALTIME wherever glibc is asked for it. The monotonic and boot clocks stay as they are.
 *
 * The offset lies in a memory file of the process's own, so that it can be written from outside through
 * /proc/PID/fd, into containers too (tests/support/src/clock.rs). It starts at zero.
 *
 * Not moved, since the kernel reads its own clock there: absolute deadlines on CLOCK_REALTIME (clock_nanosleep,
 * pthread_cond_timedwait, timer_create) and the times of files.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NANOS 1000000000LL

static _Atomic int64_t *offset; /* nanoseconds; absent until the constructor has run */

__attribute__((constructor)) static void start(void)
{
	/* The descriptor stays open: it is how the test finds the file. It does not outlive exec. */
	int fd = memfd_create("mailrelay-clock", MFD_CLOEXEC);
	void *page = MAP_FAILED;
	if (fd >= 0 && ftruncate(fd, sizeof *offset) == 0)
		page = mmap(NULL, sizeof *offset, PROT_READ, MAP_SHARED, fd, 0);
	if (page == MAP_FAILED) {
		perror("mailrelay-clock");
		abort(); /* better than a test that moves nothing */
	}
	offset = page;
}

/* The system call itself: dlsym may allocate, which is too much for a function that allocators call. */
int clock_gettime(clockid_t id, struct timespec *now)
{
	if (syscall(SYS_clock_gettime, id, now) != 0)
		return -1;
	if (offset != NULL && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
		int64_t moved = now->tv_sec * NANOS + now->tv_nsec + atomic_load(offset);
		now->tv_sec = moved / NANOS;
		now->tv_nsec = moved % NANOS;
	}
	return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	struct timespec precise;
	(void)zone; /* obsolete, and NULL everywhere */
	if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
		return -1;
	now->tv_sec = precise.tv_sec;
	now->tv_usec = precise.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *result)
{
	struct timespec precise;
	if (clock_gettime(CLOCK_REALTIME, &precise) != 0)
		return -1;
	if (result != NULL)
		*result = precise.tv_sec;
	return precise.tv_sec;
}
