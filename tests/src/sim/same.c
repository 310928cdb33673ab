/* Makes a process's run depend on its seed alone, for the simulation: loaded before the C library (LD_PRELOAD), it answers
   getrandom(2) from a seeded generator, shows a wall clock that moves by itself, one process id for all, and switches the
   randomness of addresses off. Nothing that needs secrets may run with it. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

/* One thread decides everything; the others (a log's reader) draw from a stream of their own each, all the same. */
static __thread uint64_t state;
static uint64_t clock_ms = 1790000000000;

static uint64_t next(void) {
    if (state == 0) {
        const char *seed = getenv("IRIS_SIM_SEED");
        state = (seed ? strtoull(seed, NULL, 10) : 0) * 2 + 1;
        if (syscall(SYS_gettid) != syscall(SYS_getpid)) state ^= 0x5851f42d4c957f2d;
    }
    uint64_t z = (state += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
}

ssize_t getrandom(void *buf, size_t len, unsigned int flags) {
    (void)flags;
    for (size_t at = 0; at < len; at += 8) {
        uint64_t word = next();
        memcpy((char *)buf + at, &word, len - at < 8 ? len - at : 8);
    }
    return (ssize_t)len;
}

int clock_gettime(clockid_t which, struct timespec *ts) {
    if (which != CLOCK_REALTIME) return (int)syscall(SYS_clock_gettime, which, ts);
    uint64_t now = __atomic_add_fetch(&clock_ms, 1, __ATOMIC_RELAXED);
    ts->tv_sec = (time_t)(now / 1000);
    ts->tv_nsec = (long)(now % 1000) * 1000000;
    return 0;
}

pid_t getpid(void) { return 4242; }

__attribute__((constructor)) static void same_addresses(int argc, char **argv, char **envp) {
    (void)argc;
    int now = personality(0xffffffff);
    if (now == -1 || (now & ADDR_NO_RANDOMIZE) || personality(now | ADDR_NO_RANDOMIZE) == -1) return;
    /* Where the system forbids it, the run goes on with what it has. */
    execve("/proc/self/exe", argv, envp);
}
