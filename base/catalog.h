/* catalog: the files that are shipped with the program, by kind: models, machines, stacks, maps. */
#ifndef MT_BASE_CATALOG_H
#define MT_BASE_CATALOG_H

#include "base/status.h"

/* The first directory KIND there is, in $MEGATUNE_DATA, in the source tree around the executable, and under the install prefix,
 * whose name is returned when there is none. free() it; NULL: no memory. */
char *mt_catalog_directory(const char *kind);
/* NAME.yaml in it, whether it exists or not. */
char *mt_catalog_path(const char *kind, const char *name);
/* MT_INPUT with the nearest name and all there are. `or_else` ends the message: what else may be given. */
enum mt_status mt_catalog_unknown(const char *kind, const char *name, const char *or_else);

#endif
