/* Starts 10,000 processes that end as orphans: whoever adopts them has to collect them. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PARENTS = 100, CHILDREN = 100 };

int main(void) {
    for (int parent = 0; parent < PARENTS; parent++) {
        pid_t started = fork();
        if (started < 0)
            return EXIT_FAILURE;
        if (started == 0) {
            for (int child = 0; child < CHILDREN; child++) {
                pid_t orphan = fork();
                if (orphan <= 0)
                    _exit(orphan < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
            }
            _exit(EXIT_SUCCESS); /* without a wait for any of them */
        }
        int status;
        if (waitpid(started, &status, 0) != started || status != 0)
            return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
