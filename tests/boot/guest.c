/* The only program of the images that machines are tested with: it does what the kernel's command line
 * names, as `behave=WHAT`, which the kernel passes on as an environment variable. */
#include <dirent.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

static char line[1000];

static void flood(void) {
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\n';
    for (;;)
        if (write(1, line, sizeof line) < 0)
            return;
}

static void echo(void) {
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = '\0';
        printf("heard: %s\n", line);
    }
}

/* Writes 64 MiB that are not zeros into a file, and says whether the file was there before. */
static void fill(void) {
    puts(access("/file", F_OK) == 0 ? "used before" : "fresh");
    int file = open("/file", O_WRONLY | O_CREAT | O_TRUNC, 0644);
    memset(line, 'y', sizeof line);
    size_t written = 0;
    while (written < (64u << 20)) {
        ssize_t piece = write(file, line, sizeof line);
        if (piece <= 0)
            break;
        written += (size_t)piece;
    }
    printf("%s\n", written >= (64u << 20) && fsync(file) == 0 ? "written" : "not written");
}

static void disks(void) {
    const char *const names[] = {"/dev/vda", "/dev/vdb"};
    for (int i = 0; i < 2; i++) {
        uint64_t size = 0;
        int read_only = -1;
        int disk = open(names[i], O_RDONLY);
        ioctl(disk, BLKGETSIZE64, &size);
        ioctl(disk, BLKROGET, &read_only);
        printf("%s: %llu bytes, read-only %d\n", names[i], (unsigned long long)size, read_only);
    }
    struct utsname kernel;
    uname(&kernel);
    snprintf(line, sizeof line, "/lib/modules/%s/modules.alias.bin", kernel.release);
    printf("modules: %s\n", access(line, R_OK) == 0 ? "there" : "missing");
}

static void devices(void) {
    DIR *directory = opendir("/sys/bus/virtio/devices");
    const struct dirent *entry;
    while (directory && (entry = readdir(directory))) {
        char id[32] = "";
        snprintf(line, sizeof line, "/sys/bus/virtio/devices/%s/device", entry->d_name);
        FILE *file = fopen(line, "r");
        if (file && fgets(id, sizeof id, file))
            printf("virtio device %s", id);
    }
    puts("no more devices");
}

static void clock_lines(void) {
    for (int i = 0; i < 20; i++) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        printf("time %lld.%09ld\n", (long long)now.tv_sec, now.tv_nsec);
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
    }
    puts("time is up");
}

int main(void) {
    const char *behave = getenv("behave");
    if (!behave)
        behave = "wait";
    setvbuf(stdout, NULL, _IOLBF, 0);
    printf("the guest will %s\n", behave);
    if (!strcmp(behave, "panic"))
        return 1;
    if (!strcmp(behave, "poweroff"))
        reboot(RB_POWER_OFF);
    if (!strcmp(behave, "restart"))
        reboot(RB_AUTOBOOT);
    if (!strcmp(behave, "flood"))
        flood();
    if (!strcmp(behave, "echo"))
        echo();
    if (!strcmp(behave, "fill"))
        fill();
    if (!strcmp(behave, "disks"))
        disks();
    if (!strcmp(behave, "devices"))
        devices();
    if (!strcmp(behave, "clock"))
        clock_lines();
    for (;;)
        pause();
}
