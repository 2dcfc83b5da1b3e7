/* system: small files of /proc and /sys, below a root so that a copy of another machine's can be read in its place. */
#include "probes/parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool mt_probe_read_line(const char *root, const char *path, char *text, size_t size)
{
	char full[1600];
	if ((size_t)snprintf(full, sizeof full, "%s%s", root, path) >= sizeof full)
		return false;
	FILE *file = fopen(full, "re");
	if (!file)
		return false;
	bool read = fgets(text, (int)size, file) != NULL;
	fclose(file);
	if (read)
		text[strcspn(text, "\n")] = 0;
	return read;
}

int64_t mt_probe_read_int(const char *root, const char *path, int64_t otherwise)
{
	char text[64], *end;
	if (!mt_probe_read_line(root, path, text, sizeof text))
		return otherwise;
	long long value = strtoll(text, &end, 0);
	return end == text ? otherwise : value;
}
