/* Starts a shell that does nothing, again and again, and prints how many nanoseconds each took: what the
 * agent's exec is compared to.
 *
 *     fork_loop COUNT
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	if (count != 2)
		return 2;
	for (int left = atoi(arguments[1]); left > 0; left--) {
		struct timespec before, after;
		clock_gettime(CLOCK_MONOTONIC, &before);
		pid_t child = fork();
		if (child == 0) {
			execl("/bin/sh", "sh", "-c", "true", (char *)0);
			_exit(127);
		}
		int status;
		if (child < 0 || waitpid(child, &status, 0) != child || status)
			return 1;
		clock_gettime(CLOCK_MONOTONIC, &after);
		printf("%lld\n", (after.tv_sec - before.tv_sec) * 1000000000LL + after.tv_nsec - before.tv_nsec);
	}
	return 0;
}
