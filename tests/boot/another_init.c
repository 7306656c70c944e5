/* The init of an initial file system that knows nothing of the agent: as a distribution's does, it loads
 * modules, mounts the root file system, and starts the program there that the kernel's command line would
 * name by `init=`. The kernel passes no such word on to the init of an initial file system. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char program[] = PROGRAM;
static char list[1 << 16];

static int failed(const char *what) {
    perror(what);
    return 1;
}

/* Loads the modules in the order in which the list names them. */
static void load_modules(void) {
    int file = open("/bouvet/init.json", O_RDONLY);
    if (file < 0 || read(file, list, sizeof list - 1) < 0)
        return;
    char *rest = strstr(list, "\"modules\"");
    char *end = rest ? strchr(rest, ']') : NULL;
    while (rest && end && (rest = strstr(rest, "/modules/")) && rest < end) {
        char *quote = strchr(rest, '"');
        *quote = '\0';
        int module = open(rest, O_RDONLY);
        if (syscall(SYS_finit_module, module, "", 0) < 0)
            perror(rest);
        close(module);
        rest = quote + 1;
    }
}

int main(void) {
    mkdir("/sysroot", 0755);
    if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) < 0)
        return failed("/dev");
    load_modules();
    /* The device is there some time after its driver. */
    for (int tries = 0; mount("/dev/vda", "/sysroot", "ext4", 0, NULL) < 0; tries++) {
        if (tries == 1000)
            return failed("/dev/vda");
        usleep(10000);
    }
    if (umount2("/dev", MNT_DETACH) < 0 || chdir("/sysroot") < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 ||
        chroot(".") < 0 || chdir("/") < 0)
        return failed("/sysroot");
    printf("another init starts %s\n", program);
    fflush(stdout);
    execl(program, program, (char *)NULL);
    return failed(program);
}
